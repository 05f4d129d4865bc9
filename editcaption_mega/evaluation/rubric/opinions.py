"""The repeats of one judge on one instruction as one opinion: the one rule, for reports, comparisons and agreement.

A score is the mean of the repeats that have it; the weighted score is that of these means, once all three are there. A
label is told by the repeats that judged its dimension, and holds when at least half of them give it, so that ties count
against the model: a fault, "not correct", and "of this severity or worse" alike."""

import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from editcaption_mega.records import DIMENSIONS, SEVERITIES, Judgement
from editcaption_mega.records.evaluation import Severity
from editcaption_mega.records.pair import FAILURE_MODES

from .scores import weighted, weighted_score

WEIGHTED = "weighted"
MEASURES = (WEIGHTED, *DIMENSIONS)
# What can be wrong with an instruction: the judge's failure modes, and what its labels show.
FABRICATED, MAJOR_ERROR, MISSED, FORBIDDEN = "fabricated claim", "major error", "missed change", "forbidden term"
FAULTS = (*FAILURE_MODES, FABRICATED, MAJOR_ERROR, MISSED, FORBIDDEN)
_DIMENSION_OF = {FABRICATED: "accuracy", MAJOR_ERROR: "accuracy", MISSED: "completeness", FORBIDDEN: "clarity"}


@dataclass(frozen=True)
class Labels:
    """One judge's opinion of one instruction. Counts say in how many of the repeats a label was given."""

    repeats: int
    scores: dict[str, float] = field(default_factory=dict)  # of MEASURES: mean over the repeats that have it
    values: dict[str, list[float]] = field(default_factory=dict)  # of MEASURES: the score of each repeat that has one
    unscored: dict[str, str] = field(default_factory=dict)  # dimension -> reason; no repeat has a score
    partly: dict[str, int] = field(default_factory=dict)  # dimension -> repeats without a score, where others have one
    hits: Mapping[str, int] = field(default_factory=Counter)
    misses: Mapping[str, int] = field(default_factory=Counter)
    secondary_hits: Mapping[str, int] = field(default_factory=Counter)
    assertions: Mapping[tuple[str, str, str | None], int] = field(default_factory=Counter)  # (text, verdict, change id)
    forbidden: Mapping[str, int] = field(default_factory=Counter)
    faults: tuple[str, ...] = ()  # of FAULTS
    correct: bool | None = None  # None where the judge cannot tell
    severity: Severity | None = None  # from the labels; None where no repeat has all dimensions
    words: dict[str, list[str]] = field(default_factory=dict)  # dimension -> the judge's reasons, or a reply of no use

    @property
    def spread(self) -> dict[str, float]:
        """Of MEASURES: standard deviation between the repeats, where there are two or more."""
        return {name: statistics.stdev(values) for name, values in self.values.items() if len(values) > 1}


def can_tell(opinion: Judgement | Labels, fault: str) -> bool:
    """Whether what the fault is about was judged."""
    return _DIMENSION_OF[fault] in opinion.scores if fault in _DIMENSION_OF else bool(opinion.scores)


def merge(judgements: Sequence[Judgement]) -> Labels:
    """The repeats of one judge on one instruction (at least one) as one opinion."""
    scores: dict[str, list[float]] = {
        name: [j.scores[name] for j in judgements if name in j.scores] for name in DIMENSIONS
    }
    means: dict[str, float] = {name: statistics.fmean(values) for name, values in scores.items() if values}
    scores[WEIGHTED] = [score for j in judgements if (score := weighted(j)) is not None]
    if len(means) == len(DIMENSIONS):
        means[WEIGHTED] = weighted_score(**means)
    correct = [j.correct for j in judgements if j.correct is not None]
    count = len(judgements)
    return Labels(
        repeats=count,
        scores=means,
        values=scores,
        unscored={name: next(j.unscored[name] for j in judgements) for name in DIMENSIONS if not scores[name]},
        partly={name: count - len(scores[name]) for name in DIMENSIONS if 0 < len(scores[name]) < count},
        hits=Counter(change for j in judgements for change in j.hits),
        misses=Counter(change for j in judgements for change in j.misses),
        secondary_hits=Counter(change for j in judgements for change in j.secondary_hits),
        assertions=Counter((a.text, a.verdict, a.change) for j in judgements for a in j.assertions),
        forbidden=Counter(term for j in judgements for term in dict.fromkeys(j.forbidden)),
        faults=tuple(name for name in FAULTS if _holds([name in _faults(j) for j in judgements if can_tell(j, name)])),
        correct=not _holds([not vote for vote in correct]) if correct else None,
        severity=_severity([severity_of_labels(j) for j in judgements if not j.unscored]),
        words={name: words for name in DIMENSIONS if (words := _words(judgements, name))},
    )


def severity_of_labels(judgement: Judgement) -> Severity:
    """What a judge's labels say in the words of table 5: P0 for a primary change that is missed or stated wrongly, for
    an invention, or for text about something else (rows 1 to 4); P1 for something else stated wrongly (rows 1 to 3 off
    the subject); P2 for forbidden terms; else correct."""
    verdicts = {assertion.verdict for assertion in judgement.assertions}
    if judgement.misses or verdicts & {"major", "fabricated", "unrelated"}:
        return "P0"
    if "minor" in verdicts:
        return "P1"
    return "P2" if judgement.forbidden else "correct"


def _holds(votes: Sequence[bool]) -> bool:
    return bool(votes) and 2 * sum(votes) >= len(votes)


def _severity(votes: Sequence[Severity]) -> Severity | None:
    for level in SEVERITIES:  # the worst first
        if _holds([SEVERITIES.index(vote) <= SEVERITIES.index(level) for vote in votes]):
            return level
    return None


def _faults(judgement: Judgement) -> set[str]:
    verdicts = {assertion.verdict for assertion in judgement.assertions}
    shown = {
        FABRICATED: verdicts & {"fabricated", "unrelated"},
        MAJOR_ERROR: "major" in verdicts,
        MISSED: judgement.misses,
        FORBIDDEN: judgement.forbidden,
    }
    return {*judgement.failure_modes, *(name for name, is_shown in shown.items() if is_shown)}


def _words(judgements: Sequence[Judgement], dimension: str) -> list[str]:
    words = [j.provenance.get(kind, {}).get(dimension) for j in judgements for kind in ("reasoning", "replies")]
    return [text for text in dict.fromkeys(words) if text]
