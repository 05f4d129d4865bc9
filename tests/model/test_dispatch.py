"""The dispatcher of experts against Megatron's own, and what is relied upon of Megatron's layer."""

import ast
import inspect
import sys

from megatron.core.transformer.moe.moe_layer import MoELayer
from megatron.core.transformer.moe.token_dispatcher import MoETokenDispatcher

from editcaption_mega.model.dispatch import Sizes, SortingTokenDispatcher
from tests.helpers import warm
from tests.model.dispatch_worker import LAYOUTS

PHASES = [
    "dispatch_preprocess", "token_dispatch", "dispatch_postprocess",
    "combine_preprocess", "token_combine", "combine_postprocess",
]  # fmt: skip


def test_rows_and_sums_are_megatrons_in_every_layout_of_experts(tmp_path):
    """Four ranks with tokens of their own; rows, counts and probabilities are the same bits, sums and gradients within
    rounding. One of the routings leaves half of the experts, and with them whole ranks, without a token."""
    warm.run_ranks([sys.executable, "-m", "tests.model.dispatch_worker", tmp_path], 4, timeout=300)
    for rank in range(4):
        lines = (tmp_path / f"{rank}.txt").read_text().splitlines()
        assert len(lines) == len(LAYOUTS)
        assert max(float(line.rpartition(" ")[2]) for line in lines) <= 2e-6, lines


def test_megatrons_layer_calls_the_phases_in_order():
    abstract = sorted(
        name for name, value in vars(MoETokenDispatcher).items() if hasattr(value, "__isabstractmethod__")
    )
    assert abstract == sorted(PHASES)
    for phase in PHASES:
        theirs, ours = (list(inspect.signature(getattr(kind, phase)).parameters)
                        for kind in (MoETokenDispatcher, SortingTokenDispatcher))  # fmt: skip
        assert ours == theirs, phase
    called = {
        node.attr
        for node in ast.walk(ast.parse(inspect.getsource(MoELayer)))
        if isinstance(node, ast.Attribute) and getattr(node.value, "attr", "") == "token_dispatcher"
    }
    assert set(PHASES) <= called
    # What it asks for beside the phases is not asked in training, or the base class has it.
    assert called - set(PHASES) <= {"routing_map", "set_shared_experts", "get_expert_zero_copy_buffers"}


def test_sizes_are_told_by_what_is_sent_and_received():
    sizes = Sizes.of([4, 10, 3, 1, 3, 5, 2, 4], num_local_experts=2, expert_parallel=2, pieces=1, rank=1)
    assert sizes == Sizes(experts=[4, 10], sent=[[3, 1]], received=[[2, 4]], gathered=[8, 6])
    assert sum(sizes.gathered) == sum(sizes.experts)
    alone = Sizes.of([7, 9], num_local_experts=1, expert_parallel=1, pieces=1, rank=0)
    assert (alone.sent, alone.received, alone.gathered) == ([[9]], [], [])
    pieces = Sizes.of([4, 10, 3, 1, 3, 5, 2, 2, 6, 4], num_local_experts=2, expert_parallel=2, pieces=2, rank=0)
    assert (pieces.sent, pieces.received) == ([[3, 1], [3, 5]], [[2, 2], [6, 4]])
    assert [sum(rows) for rows in pieces.received] == pieces.experts


def test_what_megatrons_layer_hands_on_between_router_and_sum():
    """In pieces, ours gives it other things than tensors."""
    source = inspect.getsource(MoELayer.forward)
    for line in (
        "dispatched_input, probs = self.dispatch(hidden_states, probs)",
        "output, mlp_bias = self.routed_experts_compute(dispatched_input, probs)",
        "output = self.combine(output)",
    ):
        assert line in source
