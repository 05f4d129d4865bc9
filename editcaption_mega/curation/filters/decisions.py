"""What rules and quotas make of the values: who stays, who goes at which stage, and at which threshold."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.records import CATEGORIES
from editcaption_mega.settings import SettingsError

from .calibration import Calibration, calibrate
from .column_values import ABSENT, PASSED, ColumnValues
from .filter_rules import FilterRule
from .quotas import drawn, quota_counts

QUOTAS = "quotas"
STAYS = -1


@dataclass(frozen=True)
class Stage:
    """What one rule (or the quotas) did to the pairs that all before it had left."""

    rule: str
    before: int
    dropped: int
    absent: int  # of the dropped: without a value
    left: dict[str, int]  # by category
    threshold: float | None = None
    calibration: Calibration | None = None

    def to_json(self) -> dict[str, Any]:
        calibrated = {"calibration": self.calibration.to_json()} if self.calibration else {}
        threshold = {} if self.threshold is None else {"threshold": self.threshold}
        counts = {"before": self.before, "dropped": self.dropped, "without_value": self.absent, "left": self.left}
        return {"rule": self.rule} | threshold | counts | calibrated


@dataclass(frozen=True)
class Decision:
    """dropped_at: [pairs], the stage's place, or STAYS."""

    dropped_at: NDArray[np.int16]
    stages: list[Stage]
    pairs: dict[str, int]  # by category, before any stage
    quotas: dict[str, float] = field(default_factory=dict)
    seed: int = 0

    @property
    def kept(self) -> NDArray[np.int64]:
        """The places of the pairs that stay, in order."""
        return np.flatnonzero(self.dropped_at == STAYS)

    def to_json(self) -> dict[str, Any]:
        quotas = {"quotas": self.quotas, "seed": self.seed} if self.quotas else {}
        return {
            "pairs": len(self.dropped_at),
            "kept": len(self.kept),
            "by_category": self.pairs,
            "stages": [stage.to_json() for stage in self.stages],
        } | quotas


@dataclass(frozen=True)
class Quotas:
    """shares: of each category, summing to 1. count: pairs in all; None: as many as the scarcest category allows."""

    shares: Mapping[str, float] = field(default_factory=dict)
    count: int | None = None
    seed: int = 0


def decide(
    ids: Sequence[str], values: ColumnValues, rules: Sequence[FilterRule], labels: Mapping[str, bool], quotas: Quotas
) -> Decision:
    """Rules act in their order, quotas at the end. Quantiles and calibration are of all pairs with a value, whatever
    earlier rules dropped, so that the order of rules changes no threshold.

    Raises SettingsError for a rule that needs labels without any, or a column without any value; ValueError (also
    NoThresholdError) where labels or pairs do not suffice."""
    dropped_at = np.full(len(ids), STAYS, np.int16)
    stages: list[Stage] = []
    pairs = _by_category(values.category)
    for place, rule in enumerate(rules):
        threshold = calibration = None
        if rule.is_numeric:
            numbers = values.numbers[place]
            threshold, calibration = _threshold(rule, numbers, ids, labels)
            absent, passes = np.isnan(numbers), _compared(numbers, rule.sign, threshold)
        else:
            absent, passes = values.marks[place] == ABSENT, values.marks[place] == PASSED
        out = ~(passes | absent) | (absent & (not rule.absent_passes))
        before = dropped_at == STAYS
        dropped_at[before & out] = place
        left = _by_category(values.category[dropped_at == STAYS])
        gone = before & out
        stages.append(
            Stage(
                rule.text, int(before.sum()), int(gone.sum()), int((gone & absent).sum()), left, threshold, calibration
            )
        )
    if quotas.shares:
        stages.append(_by_quota(ids, values.category, dropped_at, quotas, len(rules)))
    return Decision(dropped_at, stages, pairs, dict(quotas.shares), quotas.seed)


def _by_quota(
    ids: Sequence[str], category: NDArray[np.int8], dropped_at: NDArray[np.int16], quotas: Quotas, place: int
) -> Stage:
    """Marks in dropped_at what no quota has room for."""
    before = np.flatnonzero(dropped_at == STAYS)
    counts = quota_counts(_by_category(category[before]), quotas.shares, quotas.count)
    dropped_at[before] = place
    for number, name in enumerate(CATEGORIES):
        of_category = before[category[before] == number]
        dropped_at[drawn(ids, of_category, counts[name], quotas.seed)] = STAYS
    return Stage(QUOTAS, len(before), len(before) - sum(counts.values()), 0, counts)


def _threshold(
    rule: FilterRule, numbers: NDArray[np.float64], ids: Sequence[str], labels: Mapping[str, bool]
) -> tuple[float, Calibration | None]:
    known = ~np.isnan(numbers)
    if rule.kind == "number":
        return rule.value, None
    if not known.any():
        raise SettingsError(f"rule {rule.text!r}: no pair has a number in {rule.column}")
    if rule.kind == "quantile":
        return float(np.quantile(numbers[known], rule.value)), None
    if not labels:
        raise SettingsError(f"rule {rule.text!r} is a precision: give labeled pairs with --labels FILE")
    labeled = {ids[at]: float(numbers[at]) for at in np.flatnonzero(known).tolist() if ids[at] in labels}
    calibration = calibrate(labeled, labels, rule.value, keeps_high=rule.keeps_high, name=rule.column)
    return calibration.chosen.threshold, calibration


def _compared(numbers: NDArray[np.float64], sign: str, threshold: float) -> NDArray[np.bool_]:
    compare = {">=": np.greater_equal, ">": np.greater, "<=": np.less_equal, "<": np.less}[sign]
    passes: NDArray[np.bool_] = compare(numbers, threshold)
    return passes


def _by_category(category: NDArray[np.int8]) -> dict[str, int]:
    counts = np.bincount(category, minlength=len(CATEGORIES))
    return {name: int(count) for name, count in zip(CATEGORIES, counts, strict=True)}
