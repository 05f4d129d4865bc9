"""Runs on four ranks: rows through our dispatcher and through Megatron's, in the layouts of experts over ranks.

Usage: -m tests.model.dispatch_worker OUTPUT_FOLDER; test_dispatch.py starts it."""

import sys
from pathlib import Path

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.transformer.moe.token_dispatcher import MoEAlltoAllTokenDispatcher, MoETokenDispatcher
from megatron.core.transformer.transformer_config import TransformerConfig

from editcaption_mega import platform
from editcaption_mega.model.dispatch import SortingTokenDispatcher
from editcaption_mega.model.parallel.grouped_experts import ExpertRows

EXPERTS, HIDDEN = 8, 12
# expert-parallel ranks, expert-tensor-parallel ranks, experts of each token
LAYOUTS = [(4, 1, 3), (2, 2, 2), (1, 4, 1), (2, 1, 8), (1, 1, 2), (1, 2, 2)]


def compare(expert_parallel: int, expert_tensor: int, top_k: int) -> float:
    """The largest difference of any output or gradient, whose rows must be the same."""
    tensor = 4 // expert_parallel if expert_tensor > 1 else 1
    platform.initialize(platform.Layout(tensor, expert=expert_parallel, expert_tensor=expert_tensor), seed=1)
    groups = ProcessGroupCollection.use_mpu_process_groups()
    config = TransformerConfig(
        num_layers=1, hidden_size=HIDDEN, num_attention_heads=4, add_bias_linear=False,
        moe_router_pre_softmax=True, num_moe_experts=EXPERTS, moe_router_topk=top_k,
        moe_token_dispatcher_type="alltoall",
        tensor_model_parallel_size=tensor, sequence_parallel=tensor > 1,
        expert_model_parallel_size=expert_parallel, expert_tensor_parallel_size=expert_tensor,
    )  # fmt: skip
    local, first = EXPERTS // expert_parallel, groups.ep.rank() * EXPERTS // expert_parallel
    own = SortingTokenDispatcher(local, first, config, groups)
    theirs = MoEAlltoAllTokenDispatcher(local, list(range(first, first + local)), config, groups)
    differences = [0.0]
    for tokens, most in ((11 + 2 * dist.get_rank(), EXPERTS), (7, max(top_k, EXPERTS // 2))):
        # Of all experts, or of the first half alone: then some ranks receive nothing.
        results = [outcome(dispatcher, tokens, most, top_k) for dispatcher in (own, theirs)]
        for name, ours, expected in zip(("rows", "counts", "probs", "out", "x", "p"), *results, strict=True):
            assert ours.shape == expected.shape, name
            if name in ("rows", "counts", "probs"):
                assert torch.equal(ours, expected), f"{name} differ"
            elif ours.numel():
                differences.append((ours - expected).abs().max().item())
    parallel_state.destroy_model_parallel()
    return max(differences)


def outcome(dispatcher: MoETokenDispatcher, tokens: int, most: int, top_k: int) -> list[torch.Tensor]:
    """A layer whose experts multiply by a number of their own."""
    generator = torch.Generator().manual_seed(10 + dist.get_rank())
    x = torch.randn(tokens, 1, HIDDEN, generator=generator).requires_grad_()
    scores = torch.randn(tokens, EXPERTS, generator=generator)
    scores[:, most:] = -torch.inf
    chosen = torch.zeros(tokens, EXPERTS, dtype=torch.bool).scatter(1, scores.topk(top_k, 1).indices, True)
    probs = (torch.rand(tokens, EXPERTS, generator=generator) * chosen).requires_grad_()
    rows, row_probs = dispatcher.token_dispatch(*dispatcher.dispatch_preprocess(x, chosen, probs))
    rows, counts, row_probs = dispatcher.dispatch_postprocess(rows, row_probs)
    if isinstance(counts, ExpertRows):
        assert counts.on_host() == counts.counts.tolist(), "the host has been told other numbers"
        counts = counts.counts
    factor = torch.arange(1.0, len(counts) + 1).repeat_interleave(counts)
    out = rows * (factor * row_probs)[:, None]
    out = dispatcher.combine_postprocess(dispatcher.token_combine(dispatcher.combine_preprocess(out)))
    upstream = torch.randn(out.shape, generator=generator)
    by_x, by_probs = torch.autograd.grad(out, (x, probs), upstream)
    return [rows.detach(), counts, row_probs.detach(), out.detach(), by_x, by_probs]


def main(folder: str) -> None:
    lines = [f"{layout} {compare(*layout)!r}" for layout in LAYOUTS]
    Path(folder, f"{dist.get_rank()}.txt").write_text("\n".join(lines))
    platform.destroy()


if __name__ == "__main__":
    main(*sys.argv[1:])
