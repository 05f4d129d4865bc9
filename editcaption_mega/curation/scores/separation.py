"""Does a score tell right instructions from wrong ones? The area under its ROC curve, with an interval over pairs."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from editcaption_mega.evaluation.stats.intervals import Estimate, bootstrap_estimate

_DRAWS = 500


@dataclass(frozen=True)
class RightAndWrong:
    """A score of the right and of the wrong instruction of one pair."""

    right: float
    wrong: float


def separation(scores: Sequence[RightAndWrong]) -> Estimate:
    """The chance that a right instruction, of any pair, scores above a wrong one of any pair (equal: one half).

    Its 95 % interval is over pairs, whose two scores are drawn together. 0.5: the score says nothing; below: it takes
    wrong for right. Raises ValueError for a score that is not finite."""
    right = np.array([score.right for score in scores], np.float64)
    wrong = np.array([score.wrong for score in scores], np.float64)
    if not (np.isfinite(right).all() and np.isfinite(wrong).all()):
        raise ValueError("a score is not finite: leave pairs without a score out")
    if not len(right):
        return Estimate(None, None, 0)
    pairs = np.arange(len(right))
    return _area_under_curve(right, wrong, pairs, pairs, len(pairs))


def separation_of_texts(scores: Sequence[float], right: Sequence[bool], pairs: Sequence[int]) -> Estimate:
    """The same of texts that somebody judged, any number per pair. pairs: of which pair each is, 0 .. n - 1.

    Raises ValueError for a score that is not finite; there is no value where all texts are right, or all wrong."""
    values, hits, of = np.array(scores, np.float64), np.array(right, bool), np.array(pairs, np.int64)
    if not np.isfinite(values).all():
        raise ValueError("a score is not finite: leave pairs without a score out")
    if hits.all() or not hits.any():
        return Estimate(None, None, len(np.unique(of)))
    return _area_under_curve(values[hits], values[~hits], of[hits], of[~hits], int(of.max()) + 1)


def _area_under_curve(
    right: np.ndarray, wrong: np.ndarray, pairs_of_right: np.ndarray, pairs_of_wrong: np.ndarray, count: int
) -> Estimate:
    order = np.argsort(wrong)
    below, not_above = (np.searchsorted(wrong[order], right, side) for side in ("left", "right"))

    def area(weights: np.ndarray) -> np.ndarray:  # [draws, pairs]
        of_right, of_wrong = weights[:, pairs_of_right], weights[:, pairs_of_wrong[order]]
        passed = np.zeros((len(weights), len(wrong) + 1))
        np.cumsum(of_wrong, axis=1, out=passed[:, 1:])
        lower = (passed[:, below] + passed[:, not_above]) / 2  # weight of wrong ones under each right one
        return np.asarray((of_right * lower).sum(1) / (of_right.sum(1) * of_wrong.sum(1)))

    return bootstrap_estimate(area, count, draws=_DRAWS)


def separations(scores: Iterable[tuple[str, RightAndWrong]]) -> dict[str, Estimate]:
    """`separation` within each group (an edit type), and of "all"."""
    groups: dict[str, list[RightAndWrong]] = {"all": []}
    for group, score in scores:
        groups.setdefault(group, []).append(score)
        groups["all"].append(score)
    return {group: separation(of_group) for group, of_group in groups.items()}
