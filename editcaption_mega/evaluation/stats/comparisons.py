"""Models compared on the same pairs: differences with intervals, tests, and their correction for being many."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from itertools import combinations
from statistics import fmean
from typing import Any

from editcaption_mega.evaluation.rubric.opinions import MEASURES, Labels
from editcaption_mega.records import DIMENSIONS

from .intervals import (
    Estimate,
    RepeatVariance,
    bootstrap_interval,
    correlations,
    holm,
    permutation_test,
    repeat_variance,
)

ScoreByPair = Mapping[str, float | None]  # pair id -> score; None: unscored
EVERYTHING = "all"  # the group that holds every pair


@dataclass(frozen=True)
class Comparison:
    """`first` minus `second` on the pairs that are scored for both."""

    first: str
    second: str
    pairs: int
    left_out: int  # pairs that are unscored for one of the two or for both
    difference: float | None  # mean; None without pairs, as are the next three
    interval: tuple[float, float] | None  # 95 %, paired bootstrap
    p: float | None  # paired permutation test
    p_adjusted: float | None  # Holm, over all pairs of models of this benchmark and group

    @property
    def apart(self) -> bool:
        """Whether the two may be ranked: a difference at the 5 % level after the correction."""
        return self.p_adjusted is not None and self.p_adjusted <= 0.05

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"interval": self.interval and list(self.interval), "apart": self.apart}


def compare_models(
    models: Mapping[str, ScoreByPair], groups: Mapping[str, str] | None = None, *, draws: int = 2000, seed: int = 0
) -> dict[str, list[Comparison]]:
    """Every two of the models on one benchmark: under "all", and under each group of pairs (pair id -> its category).

    The family of tests that Holm's correction is for is one list of these. Raises ValueError when the models' ids are
    not the same, or a pair has no group."""
    ids = _same_ids(models)
    members = {EVERYTHING: ids}
    if groups is not None:
        for pair in ids:
            if pair not in groups:
                raise ValueError(f"pair {pair} has no group: give one for every pair, or no groups")
            members.setdefault(groups[pair], []).append(pair)
    return {group: _compare(models, pairs, draws, seed) for group, pairs in members.items()}


def _compare(models: Mapping[str, ScoreByPair], pairs: Sequence[str], draws: int, seed: int) -> list[Comparison]:
    comparisons: list[Comparison] = []
    p_values: dict[int, float] = {}  # position -> p, of those that could be tested
    for first, second in combinations(models, 2):
        scores = [(models[first][pair], models[second][pair]) for pair in pairs]
        differences = [a - b for a, b in scores if a is not None and b is not None]
        counts = len(differences), len(pairs) - len(differences)
        if not differences:
            comparisons.append(Comparison(first, second, *counts, None, None, None, None))
            continue
        p = p_values[len(comparisons)] = permutation_test(differences, seed=seed)
        interval = bootstrap_interval(differences, draws=draws, seed=seed)
        comparisons.append(Comparison(first, second, *counts, fmean(differences), interval, p, None))
    for position, adjusted in zip(p_values, holm(list(p_values.values())), strict=True):
        comparisons[position] = replace(comparisons[position], p_adjusted=adjusted)
    return comparisons


def _same_ids(models: Mapping[str, ScoreByPair]) -> list[str]:
    if not models:
        return []
    (name, reference), *others = models.items()
    for other, scores in others:
        missing, extra = sorted(set(reference) - set(scores)), sorted(set(scores) - set(reference))
        if missing or extra:
            raise ValueError(
                f"{name} and {other} are not scored on the same pairs: {other} lacks {len(missing)} of {len(reference)}"
                f" (first {missing[:1]}) and has {len(extra)} others (first {extra[:1]}); an unscored pair is None, "
                "not absent"
            )
    return list(reference)


def judge_repeat_variance(opinions: Mapping[str, Labels]) -> dict[str, RepeatVariance]:
    """How far one judge repeats itself on one model and benchmark: "weighted" and each dimension. opinions: by pair."""
    return {
        measure: repeat_variance({pair: one.values.get(measure, []) for pair, one in opinions.items()})
        for measure in MEASURES
    }


def dimension_correlations(
    opinions: Mapping[str, Labels], *, draws: int = 2000, seed: int = 0
) -> dict[tuple[str, str], dict[str, Estimate]]:
    """Pearson and Spearman correlation of each two dimensions over the pairs of one model, benchmark and judge, whose
    opinions these are. Pairs with an unscored dimension are left out: `n` of the estimates is what remains."""
    scored = [one.scores for one in opinions.values() if all(name in one.scores for name in DIMENSIONS)]
    if not scored:
        nothing = Estimate(None, None, 0)
        return {pair: {"pearson": nothing, "spearman": nothing} for pair in combinations(DIMENSIONS, 2)}
    return correlations({name: [scores[name] for scores in scored] for name in DIMENSIONS}, draws=draws, seed=seed)
