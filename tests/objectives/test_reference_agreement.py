"""Policy and reference at the first step: what counts as the same model, on one rank and on several."""

import math
from types import SimpleNamespace

import pytest
import torch

from editcaption_mega.objectives import Agreement

BATCH = SimpleNamespace(response_bounds=(0, 3, 5, 9, 12), sample_ids=("a", "b"))  # two pairs, chosen and rejected
POLICY = torch.linspace(-3, -1, 12)
LN_2 = math.log(2)


def alone(item):
    return [item]


def all_of(ranks):
    """What gathering gives when each of these hands in its own."""
    return [rank.answers for rank in ranks]


def compared(*references, precision="fp32", loss=LN_2):
    """What each rank has compared."""
    ranks = []
    for reference in references:
        agreement = Agreement(precision, loss, beta=0.1)
        agreement.compare(POLICY, reference, BATCH)
        ranks.append(agreement)
    return ranks


def test_the_same_log_probs_and_loss_pass():
    (agreement,) = compared(POLICY.clone())
    agreement.check(LN_2 + 1e-7, alone)
    assert max(answer.tokens for answer in agreement.answers.values()) == 4


@pytest.mark.parametrize("precision, passes, stops", [("fp32", 5e-5, 5e-4), ("bf16", 1e-2, 1e-1)])
def test_the_mean_over_an_answer_counts(precision, passes, stops):
    """Single tokens may differ by more than the tolerance."""
    for size, raises in ((passes, False), (stops, True)):
        shifted = POLICY.clone()
        shifted[5:9] += size  # the chosen answer of b
        shifted[3:5] += torch.tensor([1.0, -1.0]) * 10 * size  # whose mean is 0
        (agreement,) = compared(shifted, precision=precision)
        if not raises:
            agreement.check(LN_2, alone)
            continue
        with pytest.raises(ValueError, match=r"yet 1 answers .*b \(chosen\): policy .* over 4 tokens"):
            agreement.check(LN_2, alone)


def many(sizes, tokens, precision="bf16"):
    """Pairs whose answers are this far apart (nats per token), of so many tokens each -> the check's answer."""
    bounds = tuple(range(0, tokens * (len(sizes) + 1), tokens))
    batch = SimpleNamespace(response_bounds=bounds, sample_ids=tuple(f"s{i}" for i in range(len(sizes) // 2)))
    policy = torch.full((bounds[-1],), -2.0)
    agreement = Agreement(precision, None, beta=0.1)
    agreement.compare(policy, policy - torch.tensor(sizes).repeat_interleave(tokens), batch)
    return agreement.check(LN_2, alone)


def test_a_few_answers_that_round_otherwise_are_no_other_reference():
    """As tokens that two experts score alike do to short answers: 128 answers, some of them beyond the tolerance."""
    noise = (torch.randn(128, generator=torch.Generator().manual_seed(0)) * 0.015).tolist()
    outliers = [0.05, -0.06, 0.25, *noise[3:]]
    assert 3 <= many(outliers, 6) <= 12
    with pytest.raises(ValueError, match="yet .* answers"):
        many(outliers, 6, precision="fp32")


@pytest.mark.parametrize("what", ["shifted", "scattered", "some far"])
def test_another_reference_is_told_in_bf16(what):
    noise = torch.randn(128, generator=torch.Generator().manual_seed(0))
    sizes = {"shifted": 0.01 * noise + 0.04, "scattered": 0.06 * noise, "some far": 0.01 * noise}[what].tolist()
    if what == "some far":
        sizes[::16] = [0.3] * 8
    with pytest.raises(ValueError, match="step 1: policy and reference start from the same weights"):
        many(sizes, 6)


def test_what_is_not_a_number_is_no_agreement():
    (agreement,) = compared(POLICY * math.nan)
    with pytest.raises(ValueError, match="yet 4 answers .* and 1 more"):
        agreement.check(LN_2, alone)


def test_a_rank_that_agrees_raises_with_the_one_that_does_not():
    shifted = POLICY.clone()
    shifted[9:] -= 1
    ranks = compared(POLICY.clone(), shifted)
    words = []
    for agreement in ranks:
        with pytest.raises(ValueError, match=r"b \(rejected\)") as error:
            agreement.check(LN_2, lambda item: all_of(ranks))
        words.append(str(error.value))
    assert words[0] == words[1]


def test_tensor_parallel_ranks_say_the_same_once():
    shifted = POLICY.clone()
    shifted[0:3] -= 1
    ranks = compared(shifted, shifted)
    with pytest.raises(ValueError, match="yet 1 answers"):
        ranks[0].check(LN_2, lambda item: all_of(ranks))


def test_the_loss_is_held_to_its_value_where_it_has_one():
    (agreement,) = compared(POLICY.clone())
    with pytest.raises(ValueError, match="step 1: the loss is 0.700000, expected 0.693147 within"):
        agreement.check(0.7, alone)
    (agreement,) = compared(POLICY.clone(), loss=None)
    agreement.check(0.7, alone)
