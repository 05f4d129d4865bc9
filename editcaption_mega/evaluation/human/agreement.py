"""How far judges and people agree: percentage, weighted kappa, Krippendorff's alpha, each with a bootstrap interval.

Ratings are positions in an ordered list of levels, such as records.SEVERITIES."""

from collections import Counter
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from typing import get_args

import numpy as np

from editcaption_mega.evaluation.rubric.opinions import WEIGHTED, Labels
from editcaption_mega.evaluation.stats.intervals import Array, Estimate, bootstrap_estimate
from editcaption_mega.records import SEVERITIES, HumanVerdict
from editcaption_mega.records.evaluation import Severity

METRICS = ("nominal", "ordinal", "interval")
# The weighted score from which on an instruction is P1, P2, correct. Ours: the paper ties its two scales nowhere.
SEVERITY_THRESHOLDS = (3.0, 4.0, 4.8)
MAPPINGS = ("labels", "score", "correct")
Unit = tuple[str, str, str]  # what is rated: benchmark, pair id, model that wrote its instruction


def percent_agreement(ratings: Sequence[Sequence[Hashable | None]], *, draws: int = 2000, seed: int = 0) -> Estimate:
    """Share of the pairs of raters within a unit that agree. ratings [units][raters], None: not rated. n: units with
    two ratings or more."""
    units = _pairable(ratings)
    agree = np.array([sum(a == b for a, b in combinations(unit, 2)) for unit in units], dtype=np.float64)
    pairs = np.array([len(unit) * (len(unit) - 1) / 2 for unit in units])
    return bootstrap_estimate(lambda w: (w @ agree) / (w @ pairs), len(units), draws=draws, seed=seed)


def weighted_kappa(
    first: Sequence[Hashable],
    second: Sequence[Hashable],
    levels: Sequence[Hashable],
    weights: str | Sequence[Sequence[float]] = "quadratic",
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Cohen's weighted kappa (1968) of two raters of the same units: 1 - observed / chance disagreement.

    weights: "nominal" (Cohen's kappa of 1960), "linear", "quadratic" (by the distance of the levels), or the
    disagreement of each two levels. Not defined (None) when both raters only ever use one and the same level.
    Raises ValueError for raters of different numbers of units, an unknown level, unknown weights."""
    if len(first) != len(second):
        raise ValueError(f"weighted_kappa: {len(first)} ratings and {len(second)}, expected one of each per unit")
    disagreement = _disagreement(weights, len(levels))
    rows, columns = (np.eye(len(levels))[_positions(ratings, levels)] for ratings in (first, second))
    cells = (rows[:, :, None] * columns[:, None, :]).reshape(len(first), len(levels) ** 2)

    def kappa(resamples: Array) -> Array:
        observed = (resamples @ cells) @ disagreement.ravel()
        chance = np.einsum("mi,ij,mj->m", resamples @ rows, disagreement, resamples @ columns)
        return 1 - observed * resamples.sum(axis=1) / np.where(chance > 0, chance, np.nan)

    return bootstrap_estimate(kappa, len(first), draws=draws, seed=seed)


def krippendorff_alpha(
    ratings: Sequence[Sequence[Hashable | None]],
    levels: Sequence[Hashable],
    metric: str = "ordinal",
    *,
    draws: int = 2000,
    seed: int = 0,
) -> Estimate:
    """Krippendorff's alpha (Content Analysis, chapter 11) of any number of raters. ratings [units][raters], None: not
    rated; a unit with fewer than two ratings has no part in it and none in n.

    metric: "nominal", "ordinal" (levels in their order), "interval" (levels are numbers). The interval resamples units.
    Not defined (None) when all ratings are the same. Raises ValueError for an unknown level or metric."""
    if metric not in METRICS:
        raise ValueError(f"metric is {metric!r}, expected one of {', '.join(METRICS)}")
    if metric == "interval" and not all(isinstance(level, int | float) for level in levels):
        raise ValueError(f"metric 'interval' needs levels that are numbers, found {list(levels)}; use 'ordinal'")
    units = _pairable(ratings)
    at_level = np.eye(len(levels))
    counts = np.array([at_level[_positions(unit, levels)].sum(axis=0) for unit in units]).reshape(-1, len(levels))
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * at_level
    coincidences = (pairs / (counts.sum(axis=1) - 1)[:, None, None]).reshape(len(units), len(levels) ** 2)

    def alpha(resamples: Array) -> Array:
        observed = (resamples @ coincidences).reshape(-1, len(levels), len(levels))
        totals = observed.sum(axis=2)
        if metric == "nominal":
            distance = 1 - at_level
        else:
            middle = totals.cumsum(axis=1) - totals / 2 if metric == "ordinal" else np.array([levels], dtype=float)
            distance = (middle[:, :, None] - middle[:, None, :]) ** 2
        chance = (totals[:, :, None] * totals[:, None, :] * distance).sum(axis=(1, 2))
        found = (observed * distance).sum(axis=(1, 2)) * (totals.sum(axis=1) - 1)
        values: Array = 1 - found / np.where(chance > 0, chance, np.nan)
        return values

    return bootstrap_estimate(alpha, len(units), draws=draws, seed=seed)


def _pairable(ratings: Sequence[Sequence[Hashable | None]]) -> list[list[Hashable]]:
    units = [[rating for rating in unit if rating is not None] for unit in ratings]
    return [unit for unit in units if len(unit) > 1]


def _positions(ratings: Sequence[Hashable], levels: Sequence[Hashable]) -> list[int]:
    position = {level: i for i, level in enumerate(levels)}
    unknown = [rating for rating in ratings if rating not in position]
    if unknown:
        raise ValueError(f"rating {unknown[0]!r} is none of the levels {', '.join(map(str, levels))}")
    return [position[rating] for rating in ratings]


def _disagreement(weights: str | Sequence[Sequence[float]], size: int) -> Array:
    distance = abs(np.subtract.outer(np.arange(size), np.arange(size))).astype(np.float64)
    named = {"nominal": np.sign(distance), "linear": distance, "quadratic": distance**2}
    if isinstance(weights, str):
        if weights not in named:
            raise ValueError(f"weights is {weights!r}, expected one of {', '.join(named)}, or a matrix")
        return named[weights]
    matrix = np.asarray(weights, dtype=np.float64)
    if matrix.shape != (size, size):
        raise ValueError(f"weights is a matrix of shape {matrix.shape}, expected {(size, size)}, one row per level")
    return matrix


@dataclass(frozen=True)
class AnnotatorAgreement:
    alpha: Estimate  # ordinal
    percent: Estimate
    kappas: dict[tuple[str, str], Estimate]  # each two annotators, quadratic weights, on what both have judged


def annotator_agreement(verdicts: Iterable[HumanVerdict], *, draws: int = 2000, seed: int = 0) -> AnnotatorAgreement:
    """How far the annotators agree on the severity. A unit is one model's instruction for one pair.

    Raises ValueError when an annotator has two verdicts on one of them (the importer accepts no such rows)."""
    by_unit: dict[Unit, dict[str, Severity]] = {}
    for row in verdicts:
        unit = by_unit.setdefault((row.benchmark, row.id, row.model), {})
        if row.annotator in unit:
            raise ValueError(f"annotator {row.annotator} has two verdicts on {row.model}'s instruction for {row.id}")
        unit[row.annotator] = row.severity
    annotators = sorted({name for unit in by_unit.values() for name in unit})
    ratings = [[unit.get(name) for name in annotators] for unit in by_unit.values()]
    kappas = {}
    for first, second in combinations(annotators, 2):
        both = [(unit[first], unit[second]) for unit in by_unit.values() if first in unit and second in unit]
        a, b = [pair[0] for pair in both], [pair[1] for pair in both]
        kappas[first, second] = weighted_kappa(a, b, SEVERITIES, draws=draws, seed=seed)
    return AnnotatorAgreement(
        krippendorff_alpha(ratings, SEVERITIES, "ordinal", draws=draws, seed=seed),
        percent_agreement(ratings, draws=draws, seed=seed),
        kappas,
    )


def severity_of_score(score: float, thresholds: Sequence[float] = SEVERITY_THRESHOLDS) -> Severity:
    """The severity of a weighted score: P0 below the first threshold, then P1, P2, and correct from the last on."""
    if len(thresholds) != 3 or list(thresholds) != sorted(thresholds):
        raise ValueError(f"thresholds={list(thresholds)} must be three rising scores: from where on P1, P2, correct")
    return SEVERITIES[sum(score >= threshold for threshold in thresholds)]


@dataclass(frozen=True)
class JudgeAgreement:
    """A judge against people. `counts`: (judge's severity, people's) -> instructions, all of `levels`."""

    mapping: str
    levels: tuple[str, ...]
    kappa: Estimate  # quadratic weights
    percent: Estimate
    counts: dict[tuple[str, str], int]
    unscored: int  # instructions with a verdict that the judge could not judge
    unjudged: int  # with a verdict and no judgement at all
    without_verdict: int  # judged, but by no person


def judge_human_agreement(
    opinions: Mapping[Unit, Labels],
    verdicts: Iterable[HumanVerdict],
    mapping: str = "labels",
    *,
    thresholds: Sequence[float] = SEVERITY_THRESHOLDS,
    draws: int = 2000,
    seed: int = 0,
) -> JudgeAgreement:
    """One judge's opinions (`rubric.opinions`) of any models against adjudicated verdicts (`human.adjudicate`).

    mapping: how an opinion becomes a severity. "labels": from its labels. "score": `severity_of_score` of its weighted
    score. "correct": correct or not (two levels). Raises ValueError for an unknown mapping, or several verdicts on one
    instruction."""
    if mapping not in MAPPINGS:
        raise ValueError(f"mapping is {mapping!r}, expected one of {', '.join(MAPPINGS)}")
    human: dict[Unit, Severity] = {}
    for verdict in verdicts:
        unit = (verdict.benchmark, verdict.id, verdict.model)
        if unit in human:
            raise ValueError(
                f"{verdict.model}'s instruction for {verdict.id} has several verdicts: adjudicate them first"
            )
        human[unit] = verdict.severity
    levels = ("not correct", "correct") if mapping == "correct" else get_args(Severity)
    judged = {unit: _severity(opinions[unit], mapping, thresholds) for unit in human if unit in opinions}
    both = {unit: severity for unit, severity in judged.items() if severity is not None}
    by_judge = list(both.values())
    by_people = [human[unit] if mapping != "correct" or human[unit] == "correct" else "not correct" for unit in both]
    pairs = list(zip(by_judge, by_people, strict=True))
    counts = Counter(pairs)
    return JudgeAgreement(
        mapping=mapping,
        levels=levels,
        kappa=weighted_kappa(by_judge, by_people, levels, draws=draws, seed=seed),
        percent=percent_agreement(pairs, draws=draws, seed=seed),
        counts={(a, b): counts[a, b] for a in levels for b in levels},
        unscored=len(judged) - len(both),
        unjudged=len(human) - len(judged),
        without_verdict=len(set(opinions) - set(human)),
    )


def _severity(opinion: Labels, mapping: str, thresholds: Sequence[float]) -> str | None:
    """None: the judge's opinion does not tell it."""
    if mapping == "correct":
        return None if opinion.correct is None else "correct" if opinion.correct else "not correct"
    if mapping == "labels":
        return opinion.severity
    score = opinion.scores.get(WEIGHTED)
    return None if score is None else severity_of_score(score, thresholds)
