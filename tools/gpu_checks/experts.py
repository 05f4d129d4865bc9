"""The experts' grouped products on this device in bf16, some of them without a token, against a loop in fp32."""

from types import SimpleNamespace

import torch
import torch.nn.functional as F
from torch import Tensor

from editcaption_mega.model.parallel.grouped_experts import ExpertRows, GroupedExperts

from .figures import Figure, Figures, Machine, relative_error

TOKENS = (40, 0, 7, 33, 0, 16)  # of each expert
HIDDEN, FFN = 128, 96
MOST = 2e-2  # bf16 keeps 8 bits


def run(machine: Machine) -> Figures:
    alone = SimpleNamespace(size=lambda: 1, rank=lambda: 0)
    config = SimpleNamespace(
        gated_linear_unit=True, add_bias_linear=False, moe_ffn_hidden_size=FFN, hidden_size=HIDDEN,
        use_cpu_initialization=not machine.on_gpu, params_dtype=torch.bfloat16, tensor_model_parallel_size=1,
        fused_weight_gradients=True,
        delayed_gradients=None,
    )  # fmt: skip
    groups = SimpleNamespace(expt_tp=alone, ep=alone)
    layer = GroupedExperts(len(TOKENS), config, pg_collection=groups).to(machine.device)
    generator = torch.Generator().manual_seed(2)
    with torch.no_grad():
        for weight in layer.parameters():
            weight.copy_(0.1 * torch.randn(weight.shape, generator=generator))
    x = torch.randn(sum(TOKENS), HIDDEN, generator=generator).to(machine.device, torch.bfloat16).requires_grad_()
    probs = torch.rand(sum(TOKENS), generator=generator).to(machine.device)
    out, _ = layer(x, ExpertRows.of(torch.tensor(TOKENS, device=machine.device)), probs)
    upstream = torch.randn(out.shape, generator=generator).to(machine.device, out.dtype)
    (out * upstream).sum().backward()
    exact = [tensor.detach().float().requires_grad_() for tensor in (x, layer.gate_up, layer.down)]
    truth = _one_by_one(*exact, probs)
    (truth * upstream.float()).sum().backward()
    ours = (out, x.grad, layer.gate_up.grad, layer.down.grad)
    errors = [relative_error(mine, true) for mine, true in zip(ours, (truth, *(t.grad for t in exact)), strict=True)]
    note = "output, dx, dgate_up, ddown: " + " ".join(f"{error:.1e}" for error in errors)
    yield Figure(f"{TOKENS.count(0)} of {len(TOKENS)} experts without a token", max(errors), "", note, most=MOST)


def _one_by_one(x: Tensor, gate_up: Tensor, down: Tensor, probs: Tensor) -> Tensor:
    parts = []
    for expert, (tokens, weights) in enumerate(zip(x.split(TOKENS), probs.split(TOKENS), strict=True)):
        hidden = F.silu(tokens @ gate_up[expert, 0].T) * (tokens @ gate_up[expert, 1].T)
        parts.append((hidden * weights[:, None]) @ down[expert].T)
    return torch.cat(parts)
