"""FLOPs of what PyTorch's counter does not know, against eager forms that it counts, and masks counted pair by pair.

Products of whole steps are compared in `test_against_reality`.
"""

from itertools import pairwise

import pytest
import torch
import torch.nn.functional as F
from torch.utils.flop_counter import FlopCounterMode, sdpa_backward_flop_count

from editcaption_mega.kernels import linear_log_probs
from editcaption_mega.model.attention import Cuts, flash_attention
from editcaption_mega.planning.dry_run.recorder import StepRecorder

META = torch.device("meta")
HEADS, KV_HEADS, CHANNELS = 8, 4, 32


def recorded(work) -> dict[str, int]:
    """FLOPs by operator of what `work` does on tensors without values."""
    with StepRecorder() as recorder:
        recorder.start()
        work()
    flops: dict[str, int] = {}
    for step in recorder.phase.steps:
        if step.flops:
            flops[step.name] = flops.get(step.name, 0) + step.flops
    return flops


def counted(work) -> int:
    """FLOPs of what `work` does, by PyTorch's counter."""
    with FlopCounterMode(display=False) as counter:
        work()
    return counter.get_total_flops()


def attention(query_bounds: tuple[int, ...], key_bounds: tuple[int, ...], causal: bool) -> dict[str, int]:
    def tensor(rows: int, heads: int) -> torch.Tensor:
        return torch.empty(rows, heads, CHANNELS, device=META, dtype=torch.bfloat16, requires_grad=True)

    def work() -> None:
        queries, keys = Cuts.of(query_bounds, META), Cuts.of(key_bounds, META)
        query = tensor(query_bounds[-1], HEADS)
        key, value = tensor(key_bounds[-1], KV_HEADS), tensor(key_bounds[-1], KV_HEADS)
        flash_attention(query, key, value, queries, keys, causal=causal, scale=1.0).sum().backward()

    return recorded(work)


def eager_attention(query_bounds: tuple[int, ...], key_bounds: tuple[int, ...]) -> int:
    """Forward FLOPs where nothing is masked: two products of each segment's own."""

    def work() -> None:
        for (start, end), (first, last) in zip(pairwise(query_bounds), pairwise(key_bounds), strict=True):
            query = torch.zeros(HEADS, end - start, CHANNELS)
            keys = torch.zeros(HEADS, last - first, CHANNELS)  # of each head, as grouped queries see them
            (query @ keys.mT).softmax(-1) @ keys

    return counted(work)


def unmasked_share(query_bounds: tuple[int, ...], key_bounds: tuple[int, ...]) -> tuple[int, int]:
    """Pairs that a causal mask aligned to the bottom right leaves, and all pairs, one by one."""
    left = total = 0
    for (start, end), (first, last) in zip(pairwise(query_bounds), pairwise(key_bounds), strict=True):
        for query in range(end - start):
            for key in range(last - first):
                total += 1
                left += key <= query + (last - first) - (end - start)
    return left, total


ONE, SEVERAL = (0, 48), (0, 5, 6, 40)
CUTS = [(ONE, ONE), (SEVERAL, SEVERAL), ((0, 10, 13, 17), (0, 10, 23, 37))]  # the last: answers behind shared prompts


@pytest.mark.parametrize(("queries", "keys"), CUTS)
def test_attention_without_a_mask_has_the_flops_of_its_two_products(queries, keys):
    flops = attention(queries, keys, causal=False)
    assert flops["_varlen_attn"] == eager_attention(queries, keys) > 0


@pytest.mark.parametrize(("queries", "keys"), CUTS)
def test_causal_attention_has_the_share_that_is_not_masked(queries, keys):
    flops = attention(queries, keys, causal=True)
    left, total = unmasked_share(queries, keys)
    assert flops["_varlen_attn"] * total == eager_attention(queries, keys) * left
    assert left < total


def test_attentions_gradient_has_the_flops_that_pytorch_counts_for_flash():
    shape = (1, HEADS, ONE[-1], CHANNELS)
    expected = sdpa_backward_flop_count(shape, shape, shape, shape)
    assert attention(ONE, ONE, causal=False)["_varlen_attn_backward"] == expected


@pytest.mark.parametrize(("queries", "keys"), CUTS)
def test_attentions_gradient_has_two_and_a_half_times_the_forwards(queries, keys):
    flops = attention(queries, keys, causal=True)
    assert 2 * flops["_varlen_attn_backward"] == 5 * flops["_varlen_attn"]


def test_bounds_that_are_not_known_are_an_error_that_says_so():
    def work() -> None:
        cuts = Cuts(ONE, torch.empty(2, dtype=torch.int32, device=META))
        tensor = torch.empty(48, HEADS, CHANNELS, device=META, dtype=torch.bfloat16)
        flash_attention(tensor, tensor, tensor, cuts, cuts, causal=True, scale=1.0)

    with pytest.raises(RuntimeError, match="bounds did not come from the host"):
        recorded(work)


def test_grouped_products_have_the_flops_of_each_groups_own():
    ends, inner, columns = [16, 16, 64, 80], 64, 32

    def fused() -> None:
        offsets = torch.tensor(ends, dtype=torch.int32).to(META, non_blocking=True)
        rows = torch.empty(80, inner, device=META, dtype=torch.bfloat16, requires_grad=True)
        weights = torch.empty(4, inner, columns, device=META, dtype=torch.bfloat16, requires_grad=True)
        F.grouped_mm(rows, weights, offs=offsets).square().sum().backward()

    def eager() -> None:
        rows = torch.zeros(80, inner, requires_grad=True)
        weights = torch.zeros(4, inner, columns, requires_grad=True)
        parts = rows.tensor_split(ends[:-1])
        torch.cat([part @ weight for part, weight in zip(parts, weights, strict=True)]).square().sum().backward()

    assert sum(recorded(fused).values()) == counted(eager) > 0


@pytest.mark.parametrize("chunked", [False, True])
def test_the_lm_head_has_the_flops_of_its_products(chunked):
    rows, inner, columns = 48, 64, 256

    def fused() -> None:
        hidden = torch.empty(rows, inner, device=META, dtype=torch.bfloat16, requires_grad=True)
        weight = torch.empty(columns, inner, device=META, dtype=torch.bfloat16, requires_grad=True)
        targets = torch.zeros(rows, dtype=torch.int64).to(META, non_blocking=True)
        limit = 2 * rows * columns - 1 if chunked else 1 << 30
        log_probs = linear_log_probs(hidden, weight, targets, max_logits_bytes=limit, validate_targets=False)
        log_probs.sum().backward()

    def eager() -> None:
        hidden, weight = torch.zeros(rows, inner, requires_grad=True), torch.zeros(columns, inner, requires_grad=True)
        logits = hidden @ weight.T
        if chunked:  # they are made a second time, for the gradient
            hidden.detach() @ weight.T.detach()
        logits.log_softmax(-1).gather(1, torch.zeros(rows, 1, dtype=torch.int64)).sum().backward()

    assert sum(recorded(fused).values()) == counted(eager) > 0
