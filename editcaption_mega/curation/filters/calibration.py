"""A threshold for a wished precision, from a slice that people have labeled right and wrong.

The labels that a threshold was chosen on flatter it, so its precision is measured by cross-fitting: on each fifth of
the labels with the threshold that the other four fifths choose. Fifths are by a hash of the id: more labels move no
others."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.evaluation.stats.intervals import wilson_interval
from editcaption_mega.files import parse_json, plain_file

FEWEST_LABELS = 40  # with a value: fewer say nothing of a precision
FEWEST_PASSING = 10  # labeled pairs, for a threshold to be considered
FOLDS = 5
_CAUTION = 1.0  # standard errors by which the observed precision must be above the wished one
_MOST_POINTS = 200  # of a curve

Array = NDArray[np.float64]


class NoThresholdError(ValueError):
    """No threshold of the column reaches the wished precision."""


@dataclass(frozen=True)
class Point:
    """What passes a threshold: the share of it that is right, its 95 % interval, and the share of the right ones."""

    threshold: float
    precision: float
    interval: tuple[float, float]
    recall: float
    passing: int


@dataclass(frozen=True)
class Calibration:
    """chosen: on the labels it was chosen on. measured: by cross-fitting, on labels that chose nothing: believe it.
    curve: over all labels."""

    wished: float
    chosen: Point
    measured: Point
    labels: int
    curve: tuple[Point, ...]

    def to_json(self) -> dict[str, Any]:
        return {
            "wished_precision": self.wished,
            "threshold": self.chosen.threshold,
            "precision": self.measured.precision,
            "interval": list(self.measured.interval),
            "recall": self.measured.recall,
            "measured_on": self.measured.passing,
            "labels": self.labels,
        }


def read_labels(path: Path) -> dict[str, bool]:
    """{id: whether it is right} of a JSONL of {"id", "label": true or false}. Raises ValueError that names the line."""
    labels: dict[str, bool] = {}
    with open(plain_file(path), "rb") as file:
        for number, line in enumerate(file, 1):
            if not line.strip():
                continue
            try:
                value = parse_json(line)
            except ValueError as error:
                raise ValueError(f"{path}, line {number}: {error}") from None
            if (
                not isinstance(value, dict)
                or not isinstance(value.get("id"), str)
                or type(value.get("label")) is not bool
            ):
                raise ValueError(f'{path}, line {number}: expected {{"id": a text, "label": true or false}}')
            if labels.setdefault(value["id"], value["label"]) != value["label"]:
                raise ValueError(f"{path}, line {number}: {value['id']} is labeled both true and false")
    return labels


def calibrate(
    values: Mapping[str, float], labels: Mapping[str, bool], wished: float, *, keeps_high: bool = True, name: str = "it"
) -> Calibration:
    """The loosest threshold whose passing pairs are right in a share of `wished`, with what it gives on other pairs.

    values: id -> the column's value. Chosen is the loosest threshold at which the share is above `wished` by one
    standard error (by Wilson), as the loosest of many thresholds is a lucky one as a rule. Raises NoThresholdError,
    with what the best reaches, where there is none or other labels contradict it; ValueError for too few labels."""
    known = sorted(set(values) & set(labels))
    if len(known) < FEWEST_LABELS:
        raise ValueError(
            f"{len(known)} labeled pairs have a value of {name}: a threshold needs {FEWEST_LABELS} or more: label more"
        )
    sign = 1.0 if keeps_high else -1.0
    score = np.array([sign * values[key] for key in known])
    right = np.array([labels[key] for key in known])
    curve = _curve(score, right)
    chosen = _loosest(curve, wished)
    if chosen is None:
        best = max(curve, key=lambda point: (point.passing >= FEWEST_PASSING, _lower(point)))
        raise NoThresholdError(
            f"no threshold of {name} reaches a precision of {wished:g}: the best, {sign * best.threshold:g}, has "
            f"{best.precision:.3f} on {best.passing} labeled pairs (interval {best.interval[0]:.3f} to "
            f"{best.interval[1]:.3f}); label more, wish less or choose another column"
        )
    measured = _cross_fitted(score, right, [_fold(key) for key in known], wished, chosen.threshold)
    if measured.interval[1] < wished:
        raise NoThresholdError(
            f"the threshold {sign * chosen.threshold:g} of {name} has a precision of {chosen.precision:.3f} on the "
            f"labels that chose it and of {measured.precision:.3f} on others (interval to {measured.interval[1]:.3f}), "
            f"which is below {wished:g}: label more pairs"
        )
    points = tuple(_turned(point, sign) for point in _thinned(curve))
    return Calibration(wished, _turned(chosen, sign), _turned(measured, sign), len(known), points)


def _loosest(curve: list[Point], wished: float) -> Point | None:
    return next((p for p in reversed(curve) if p.passing >= FEWEST_PASSING and _lower(p) >= wished), None)


def _cross_fitted(score: Array, right: NDArray[np.bool_], folds: list[int], wished: float, threshold: float) -> Point:
    """What passes of each fold at the threshold of the others; nothing, where those choose none."""
    passing = hits = 0
    fold = np.array(folds)
    for number in range(FOLDS):
        mine = fold == number
        point = _loosest(_curve(score[~mine], right[~mine]), wished)
        if point is not None:
            passes = score[mine] >= point.threshold
            passing, hits = passing + int(passes.sum()), hits + int((passes & right[mine]).sum())
    return _of_counts(threshold, hits, passing, max(1, int(right.sum())))


def _fold(identity: str) -> int:
    return hashlib.sha256(identity.encode()).digest()[0] % FOLDS


def _curve(score: Array, right: NDArray[np.bool_]) -> list[Point]:
    """A point for each value as a threshold, the strictest first."""
    order = np.argsort(-score, kind="stable")
    score, hits = score[order], np.cumsum(right[order])
    last = np.flatnonzero(np.append(score[1:] != score[:-1], True))  # of equal values
    total = max(1, int(right.sum()))
    return [_of_counts(float(score[i]), int(hits[i]), int(i) + 1, total) for i in last]


def _of_counts(threshold: float, hits: int, passing: int, right: int) -> Point:
    precision = hits / passing if passing else 0.0
    return Point(threshold, precision, wilson_interval(hits, passing), hits / right, passing)


def _lower(point: Point) -> float:
    return wilson_interval(round(point.precision * point.passing), point.passing, _CAUTION)[0]


def _turned(point: Point, sign: float) -> Point:
    return Point(sign * point.threshold, point.precision, point.interval, point.recall, point.passing)


def _thinned(points: list[Point]) -> list[Point]:
    step = -(-len(points) // _MOST_POINTS)
    return [*points[::step], points[-1]]
