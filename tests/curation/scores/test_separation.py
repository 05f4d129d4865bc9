"""The area under the ROC curve against its definition, and its interval."""

import random

import pytest

from editcaption_mega.curation.scores.separation import RightAndWrong, separation, separation_of_texts, separations


def by_definition(scores):
    pairs = [(a.right, b.wrong) for a in scores for b in scores]
    return sum((right > wrong) + (right == wrong) / 2 for right, wrong in pairs) / len(pairs)


@pytest.mark.parametrize("seed", range(5))
def test_it_is_the_share_of_right_above_wrong(seed):
    rng = random.Random(seed)
    scores = [RightAndWrong(rng.randrange(6), rng.randrange(5)) for _ in range(30)]
    estimate = separation(scores)
    assert estimate.value == pytest.approx(by_definition(scores))
    low, high = estimate.interval
    assert 0 <= low < estimate.value < high <= 1


def test_the_interval_holds_the_truth_as_often_as_it_says():
    """Normal scores one standard deviation apart: the area is 0.760."""
    rng = random.Random(1)
    inside = 0
    for _ in range(60):
        scores = [RightAndWrong(rng.gauss(1, 1), rng.gauss(0, 1)) for _ in range(60)]
        low, high = separation(scores).interval
        inside += low < 0.7602 < high
    assert inside >= 52


def test_ends_and_groups():
    apart = [RightAndWrong(1, 0)] * 4
    assert separation(apart).value == 1 and separation([RightAndWrong(0, 1)] * 4).value == 0
    assert separation([]).value is None
    groups = separations([("a", RightAndWrong(1, 0)), ("b", RightAndWrong(0, 1))])
    assert {group: estimate.value for group, estimate in groups.items()} == {"all": 0.5, "a": 1.0, "b": 0.0}
    with pytest.raises(ValueError, match="not finite"):
        separation([RightAndWrong(float("nan"), 0)])


@pytest.mark.parametrize("seed", range(3))
def test_texts_of_any_number_per_pair(seed):
    rng = random.Random(seed)
    texts = [(rng.randrange(6), rng.random() < 0.4, pair) for pair in range(30) for _ in range(rng.randrange(4))]
    right, wrong = ([score for score, mark, _ in texts if mark is wanted] for wanted in (True, False))
    expected = sum((a > b) + (a == b) / 2 for a in right for b in wrong) / (len(right) * len(wrong))
    estimate = separation_of_texts(*zip(*texts, strict=True))
    low, high = estimate.interval
    assert estimate.value == pytest.approx(expected) and low < estimate.value < high


def test_two_texts_per_pair_are_the_same_as_right_and_wrong_ones():
    rng = random.Random(3)
    scores = [RightAndWrong(rng.gauss(1, 1), rng.gauss(0, 1)) for _ in range(40)]
    flat = [
        (value, mark, at) for at, one in enumerate(scores) for value, mark in ((one.right, True), (one.wrong, False))
    ]
    one, other = separation(scores), separation_of_texts(*zip(*flat, strict=True))
    assert other.value == pytest.approx(one.value) and other.interval == pytest.approx(one.interval)
    assert separation_of_texts([1.0, 2.0], [True, True], [0, 1]).value is None
    with pytest.raises(ValueError, match="not finite"):
        separation_of_texts([float("nan")], [True], [0])
