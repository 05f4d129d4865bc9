"""The log-prob operators on this device against fp64, judged by what PyTorch's own operators lose."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor

from editcaption_mega.kernels import PreferenceLossConfig, linear_log_probs, linear_preference, log_probs

from .figures import Figure, Figures, Machine, relative_error

SIZES = ((1, 7, 16), (37, 4099, 64), (0, 1000, 16))  # response tokens, vocabulary, hidden size
LARGE, LARGE_ON_CPU = (300, 151936, 128), (300, 2048, 128)
MARGIN = 1e-6  # beside 1.05 times what eager PyTorch loses


def run(machine: Machine) -> Figures:
    sizes = (*SIZES, machine.size(LARGE, LARGE_ON_CPU))
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        excess = max(_excess(machine, dtype, *size) for size in sizes)
        name = str(dtype).removeprefix("torch.")
        note = f"log-probs and both gradients at {len(sizes)} sizes, from hidden rows and from logits"
        yield Figure(f"error beyond 1.05 x eager's, {name}", excess, "", note, most=MARGIN)
    yield Figure("gradient added into main_grad", _main_grad(machine), "", "bf16 in, fp32 sum, against fp64", most=1e-2)
    yield Figure("preference loss and its gradients", _preference(machine), "", "against fp64", most=1e-2)


def _excess(machine: Machine, dtype: torch.dtype, tokens: int, vocabulary: int, hidden: int) -> float:
    """How much more than 1.05 times eager PyTorch's error ours is, at most over results."""
    generator = torch.Generator().manual_seed(tokens + vocabulary)
    rows = torch.randn(tokens, hidden, generator=generator).to(machine.device, dtype)
    weight = (torch.randn(vocabulary, hidden, generator=generator) * 0.5).to(machine.device, dtype)
    targets = torch.randint(0, vocabulary, (tokens,), generator=generator).to(machine.device)
    upstream = torch.randn(tokens, generator=generator).to(machine.device)

    def eager(x: Tensor, w: Tensor) -> Tensor:
        return (x @ w.T).float().log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    def exact(x: Tensor, w: Tensor) -> Tensor:
        return (x @ w.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]

    truth = _results(exact, rows.double(), weight.double(), upstream.double())
    theirs = _results(eager, rows, weight, upstream)
    worst = 0.0
    for ours in (lambda x, w: linear_log_probs(x, w, targets), lambda x, w: log_probs(x @ w.T, targets)):
        results = zip(_results(ours, rows, weight, upstream), theirs, truth, strict=True)
        for mine, their, exactly in results:
            worst = max(worst, relative_error(mine, exactly) - 1.05 * relative_error(their, exactly))
    return worst


def _results(function, rows: Tensor, weight: Tensor, upstream: Tensor) -> tuple[Tensor, ...]:
    """The function's values, and its gradients by both inputs."""
    rows, weight = (tensor.detach().clone().requires_grad_() for tensor in (rows, weight))
    values = function(rows, weight)
    return (values.detach(), *torch.autograd.grad(values, (rows, weight), upstream.to(values.dtype)))


def _main_grad(machine: Machine) -> float:
    """As Megatron's data-parallel wrapper has it: the weight's gradient is summed into an fp32 buffer of its own."""
    generator = torch.Generator().manual_seed(5)
    weight = (0.1 * torch.randn(4096, 64, generator=generator)).to(machine.device, torch.bfloat16).requires_grad_()
    rows = torch.randn(33, 64, generator=generator).to(machine.device, torch.bfloat16).requires_grad_()
    targets = torch.randint(0, 4096, (33,), generator=generator).to(machine.device)
    weight.main_grad = torch.zeros(weight.shape, device=machine.device)
    for _ in range(2):
        linear_log_probs(rows, weight, targets).sum().backward()
    exact = weight.detach().double().requires_grad_()
    logits = rows.detach().double() @ exact.T
    (2 * logits.log_softmax(-1).gather(-1, targets[:, None])).sum().backward()
    return relative_error(weight.main_grad, exact.grad)


def _preference(machine: Machine) -> float:
    """Two pairs of answers under the sigmoid loss -> the largest relative error of its values and gradients."""
    generator = torch.Generator().manual_seed(6)
    bounds = [0, 5, 9, 20, 21]
    rows = torch.randn(bounds[-1], 64, generator=generator).to(machine.device, torch.bfloat16).requires_grad_()
    weight = torch.randn(1003, 64, generator=generator).to(machine.device, torch.bfloat16).requires_grad_()
    targets = torch.randint(0, 1003, (bounds[-1],), generator=generator).to(machine.device)
    reference = torch.tensor([-30.0, -25.0, -70.0, -9.0], device=machine.device)
    beta = 0.1
    out = linear_preference(
        rows, weight, targets, torch.tensor(bounds, dtype=torch.int32), reference, PreferenceLossConfig("sigmoid", beta)
    )
    ours = (out.loss, *torch.autograd.grad(out.loss.sum(), (rows, weight)))
    x, w = (tensor.detach().double().requires_grad_() for tensor in (rows, weight))
    tokens = (x @ w.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    sums = torch.stack([part.sum() for part in tokens.split([end - start for start, end in pairwise(bounds)])])
    margins = (sums - reference.double()).view(-1, 2)
    loss = -F.logsigmoid(beta * (margins[:, 0] - margins[:, 1]))
    truth = (loss, *torch.autograd.grad(loss.sum(), (x, w)))
    return max(map(relative_error, ours, truth))
