"""Comparisons of models join by pair, count what they leave out, and correct for how many they are."""

import numpy as np
import pytest

from editcaption_mega.evaluation.rubric.opinions import merge
from editcaption_mega.evaluation.stats.comparisons import (
    compare_models,
    dimension_correlations,
    judge_repeat_variance,
)
from editcaption_mega.records import Judgement


def judgement(pair, scores=(5, 5, 5), repeat=0, model="m", **more):
    names = ("accuracy", "completeness", "clarity")
    scored = {name: score for name, score in zip(names, scores, strict=True) if score is not None}
    return Judgement(
        benchmark="b", id=pair, model=model, judge="j", repeat=repeat, scores=scored,
        unscored={name: "late" for name in names if name not in scored}, **more,
    )  # fmt: skip


def opinions(rows):
    """Pair id -> the judge's opinion."""
    by_pair = {}
    for row in rows:
        by_pair.setdefault(row.id, []).append(row)
    return {pair: merge(repeats) for pair, repeats in by_pair.items()}


def test_the_better_model_is_found_per_group():
    generator = np.random.default_rng(0)
    ids = [f"p{i}" for i in range(120)]
    hard = {pair: generator.uniform(1, 4) for pair in ids}  # what both models share: the reason to compare in pairs
    groups = {pair: "orientation" if i < 60 else "detail" for i, pair in enumerate(ids)}
    first = {pair: hard[pair] + generator.normal(0, 0.1) + 0.2 * (groups[pair] == "orientation") for pair in ids}
    second = {pair: hard[pair] + generator.normal(0, 0.1) for pair in ids}
    found = compare_models({"a": first, "b": second, "c": second}, groups)
    assert set(found) == {"all", "orientation", "detail"} and all(len(rows) == 3 for rows in found.values())
    row = {(r.first, r.second): r for r in found["orientation"]}
    assert row["a", "b"].apart and row["a", "b"].difference == pytest.approx(0.2, abs=0.05)
    low, high = row["a", "b"].interval
    assert low < row["a", "b"].difference < high and high - low < 0.1, "far narrower than the spread of the scores"
    assert row["b", "c"].p == row["b", "c"].p_adjusted == 1 and not row["b", "c"].apart
    assert row["a", "b"].p_adjusted == pytest.approx(3 * row["a", "b"].p), "Holm over the three pairs of models"
    assert not any(r.apart for r in found["detail"])
    assert found == compare_models({"a": first, "b": second, "c": second}, groups)
    assert row["a", "b"].to_json()["apart"] is True


def test_unscored_pairs_are_left_out_and_counted():
    found = compare_models({"a": {"p": 5, "q": None, "r": 3}, "b": {"p": 4, "q": 2, "r": None}})["all"][0]
    assert (found.pairs, found.left_out, found.difference) == (1, 2, 1)
    nothing = compare_models({"a": {"p": None}, "b": {"p": 4}})["all"][0]
    assert (nothing.difference, nothing.interval, nothing.p, nothing.p_adjusted, nothing.left_out) == (None,) * 4 + (1,)


def test_models_of_other_pairs_are_refused():
    with pytest.raises(ValueError, match=r"b lacks 1 of 2 \(first \['q'\]\) and has 1 others \(first \['x'\]\)"):
        compare_models({"a": {"p": 1, "q": 2}, "b": {"p": 1, "x": 2}})
    with pytest.raises(ValueError, match="pair q has no group"):
        compare_models({"a": {"p": 1, "q": 2}}, {"p": "g"})


def test_correlations_of_the_dimensions():
    rows = [judgement(f"p{i}", (1 + i % 5, 1 + i % 5, 5), repeat) for i in range(20) for repeat in range(2)]
    found = dimension_correlations(opinions([*rows, judgement("late", (None, 5, 5))]))
    assert found["accuracy", "completeness"]["pearson"].value == pytest.approx(1)
    assert found["accuracy", "completeness"]["spearman"].n == 20, "pairs, not repeats; the unscored one is out"
    assert found["accuracy", "clarity"]["pearson"].value is None, "clarity does not vary"
    assert dimension_correlations({})["accuracy", "clarity"]["spearman"].n == 0


def test_repeat_variance_of_a_judge():
    rows = [judgement(f"p{i}", (5, 4, 3 + repeat), repeat) for i in range(3) for repeat in range(2)]
    found = judge_repeat_variance(opinions(rows))
    assert found["accuracy"].within_sd == 0 and found["clarity"].within_sd == pytest.approx(0.5**0.5)
    assert found["weighted"].within_sd == pytest.approx(0.2 * 0.5**0.5)
    found = judge_repeat_variance(opinions([*rows, judgement("late", (1, None, 1)), judgement("late", repeat=1)]))
    assert found["weighted"].items == found["completeness"].items == 3, "a repeat without a score is none"
    assert found["accuracy"].items == 4
