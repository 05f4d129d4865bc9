"""Intervals cover what they say, tests give the p that can be counted by hand, variances split as they should."""

import math
from itertools import product

import numpy as np
import pytest

from editcaption_mega.evaluation.stats.intervals import (
    bootstrap_estimate,
    bootstrap_interval,
    correlations,
    holm,
    permutation_test,
    repeat_variance,
    score_bounds,
    wilson_interval,
)

# Weighted scores as judges give them: value -> probability. The third is a model that is almost always right.
SCORES = {
    "spread": {5: 0.4, 4.8: 0.1, 4.5: 0.1, 4: 0.1, 3.5: 0.08, 3: 0.06, 2.5: 0.06, 2: 0.04, 1.5: 0.03, 1: 0.03},
    "skewed": {5: 0.75, 4.6: 0.1, 4: 0.05, 3: 0.04, 2: 0.03, 1: 0.03},
    "nearly always 5": {5: 0.93, 4: 0.03, 1: 0.04},
}


def coverage(name: str, n: int, runs: int, draws: int) -> float:
    """Share of `runs` samples of n scores whose interval holds the true mean."""
    values, chances = np.array(list(SCORES[name])), np.array(list(SCORES[name].values()))
    generator = np.random.default_rng(7)
    held = 0
    for run in range(runs):
        low, high = bootstrap_interval(generator.choice(values, size=n, p=chances), draws=draws, seed=run)
        held += low <= values @ chances <= high
    return held / runs


def test_wilson():
    assert wilson_interval(0, 0) == (0.0, 1.0)
    low, high = wilson_interval(50, 100)
    assert (low, high) == (pytest.approx(0.4038, abs=1e-4), pytest.approx(0.5962, abs=1e-4))  # Wilson 1927
    assert wilson_interval(0, 20)[0] == pytest.approx(0, abs=1e-12) and wilson_interval(20, 20)[1] == 1.0


def test_bootstrap_repeats_and_holds_the_mean():
    values = np.random.default_rng(1).normal(4, 1, 300)
    low, high = bootstrap_interval(values)
    assert (low, high) == bootstrap_interval(values) and low < values.mean() < high
    assert (low, high) != bootstrap_interval(values, seed=1)
    assert high - low == pytest.approx(2 * 1.96 * values.std() / 300**0.5, rel=0.1)
    with pytest.raises(ValueError, match="no values"):
        bootstrap_interval([])
    with pytest.raises(ValueError, match="not a finite number; leave unscored rows out"):
        bootstrap_interval([5, float("nan")])


def test_bootstrap_of_values_that_are_all_alike():
    for values in ([5.0], [4.7] * 50):
        assert bootstrap_interval(values) == pytest.approx((values[0], values[0]), abs=1e-12)


def test_bootstrap_stays_on_the_scale():
    values = [5.0] * 1990 + [1.0] * 10
    low, high = bootstrap_interval(values)
    assert 4.95 < low < 4.98 < high <= 5


def test_a_statistic_that_is_not_defined():
    never = bootstrap_estimate(lambda weights: np.full(len(weights), np.nan), 5)
    assert never.value is None and never.interval is None and never.to_json() == {
        "value": None, "interval": None, "n": 5,
    }  # fmt: skip
    assert bootstrap_estimate(lambda weights: weights, 0).n == 0


def test_coverage_quickly():
    """600 runs tell 95 % from less than 91 %: the percentile interval of the third covers 90 %."""
    for name in SCORES:
        assert 0.92 <= coverage(name, 100, runs=600, draws=500) <= 0.98, name


@pytest.mark.slow
@pytest.mark.parametrize("n", [100, 400])
@pytest.mark.parametrize("name", SCORES)
def test_coverage_is_95_percent_within_1_5(name, n):
    """The standard error of 10,000 runs is 0.22 %."""
    assert 0.935 <= coverage(name, n, runs=10_000, draws=1000) <= 0.965


def test_permutation_test_counts_every_pattern_of_signs():
    differences = [0.5, 0.4, 0.9, -0.2, 0.1, 0.0]
    sums = [abs(sum(s * d for s, d in zip(signs, differences, strict=True))) for signs in product((1, -1), repeat=6)]
    assert permutation_test(differences) == sum(s >= abs(sum(differences)) - 1e-12 for s in sums) / 64
    assert permutation_test([0.1] * 5) == 2 / 32, "0.1 five times is no nearer to 0.5 in one order than in another"
    assert permutation_test([0.0] * 9) == 1.0 and permutation_test([1.0]) == 1.0


def test_permutation_test_by_chance():
    exact = permutation_test([1.0] * 9 + [-1.0] * 5)  # a sign test: P(|heads - 7| >= 2) of 14
    assert exact == pytest.approx(2 * sum(math.comb(14, k) for k in range(6)) / 2**14)
    many = permutation_test([1.0] * 60 + [-1.0] * 40, draws=20_000)
    true = 2 * sum(math.comb(100, k) for k in range(41)) / 2**100
    assert many == pytest.approx(true, abs=4 * (true / 20_000) ** 0.5) and many == permutation_test(
        [1.0] * 60 + [-1.0] * 40, draws=20_000
    )
    assert permutation_test([1.0] * 200, draws=999) == 1 / 1000, "never 0"


def test_permutation_test_keeps_its_level():
    generator = np.random.default_rng(3)
    p = [permutation_test(generator.choice([-1, -0.4, 0, 0, 0.4, 1], size=40), draws=199) for _ in range(1000)]
    assert 0.03 < np.mean(np.array(p) <= 0.05) < 0.07


def test_holm():
    """Holm's own order: 0.01 * 4, then 0.02 * 3, then 0.03 * 2 and 0.04 may not fall below it."""
    assert holm([0.04, 0.01, 0.03, 0.02]) == pytest.approx([0.06, 0.04, 0.06, 0.06])
    assert holm([0.9, 0.6]) == [1.0, 1.0] and holm([]) == []


def test_bounds_of_unscored_rows():
    assert score_bounds([5, 3, None, None]) == (2.5, 4.5)
    assert score_bounds([4]) == (4, 4)
    with pytest.raises(ValueError, match="no rows"):
        score_bounds([])


def test_repeat_variance_by_hand():
    found = repeat_variance({"a": [1, 3], "b": [5, 5], "c": [4, 2], "d": [3], "e": []})
    # within: (2 + 0 + 2) / 3 degrees; between: 2 * ((2 - 10/3)^2 + (5 - 10/3)^2 + (3 - 10/3)^2) / 2 = 14/3
    assert (found.items, found.scores, found.left_out) == (3, 6, 2)
    assert found.repeat_variance == pytest.approx(4 / 3) and found.within_sd == pytest.approx((4 / 3) ** 0.5)
    assert found.item_variance == pytest.approx((14 / 3 - 4 / 3) / 2)
    assert found.reliability == pytest.approx((5 / 3) / (5 / 3 + 4 / 3))


def test_repeat_variance_finds_what_was_put_in():
    generator = np.random.default_rng(5)
    repeats = {str(i): generator.normal(generator.normal(4, 0.8), 0.3, 2 + i % 3) for i in range(3000)}
    found = repeat_variance(repeats)
    assert found.within_sd == pytest.approx(0.3, rel=0.03) and found.item_variance == pytest.approx(0.64, rel=0.08)


def test_repeat_variance_where_it_is_not_defined():
    once = repeat_variance({"a": [5], "b": [4]})
    assert (once.within_sd, once.item_variance, once.reliability, once.left_out) == (None, None, None, 2)
    one = repeat_variance({"a": [5, 4]})
    assert one.within_sd == pytest.approx(0.5**0.5) and one.item_variance is None and one.reliability is None
    same = repeat_variance({"a": [5, 5], "b": [5, 5]})
    assert same.within_sd == same.item_variance == 0 and same.reliability is None


def test_correlations():
    generator = np.random.default_rng(2)
    x = generator.normal(size=200)
    found = correlations({"x": x, "cube": x**3, "noise": generator.normal(size=200), "flat": np.ones(200)})
    assert found["x", "cube"]["spearman"].value == pytest.approx(1)
    assert found["x", "cube"]["pearson"].value == pytest.approx(np.corrcoef(x, x**3)[0, 1])
    low, high = found["x", "noise"]["pearson"].interval
    assert low < 0 < high and high - low == pytest.approx(2 * 1.96 / 200**0.5, rel=0.2)
    assert found["x", "flat"]["pearson"].value is None and found["x", "flat"]["spearman"].interval is None
    assert len(found) == 6


def test_spearman_ranks_ties_at_their_middle():
    found = correlations({"x": [1, 2, 2, 3], "y": [1, 3, 2, 4]})["x", "y"]["spearman"]
    assert found.value == pytest.approx(np.corrcoef([1, 2.5, 2.5, 4], [1, 3, 2, 4])[0, 1])


def test_columns_of_different_lengths():
    with pytest.raises(ValueError, match=r"columns of \[1, 2\] rows"):
        correlations({"x": [1], "y": [1, 2]})
