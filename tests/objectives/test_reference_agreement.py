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
    return [(rank.disagreements, rank.longest) for rank in ranks]


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
    assert agreement.longest == 4


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
