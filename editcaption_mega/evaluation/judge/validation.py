"""Can a judge be trusted on this benchmark? Instructions are made worse in one known way, and the judge must notice.

Each perturbation is handed to the judge as one more "model", so any judge of benchmarks can be checked: one behind an
endpoint (`judge.judge_benchmark`) and the rule judge alike. A judge passes a test when the whole 95 % interval of the
share of pairs where it notices lies above the threshold. A judge of some dimensions is tested in these alone."""

import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.stats.intervals import wilson_interval
from editcaption_mega.records import DIMENSIONS, Changes, Instruction, Judgement
from editcaption_mega.records.evaluation import Dimension

from .perturbations import NOT_APPLICABLE, SHORTENED, SWAPPED, TRUTH, UNRELATED, VAGUE, FlippedBenchmark, perturbations
from .reply_scores import accuracy_of

THRESHOLD = 0.8  # of the pairs on which a test can be made; 16 pairs that all hold are the fewest that can pass it
CLARITY_TOLERANCE = 0.5  # by so much the repeats of one judgement may differ in clarity
_FLIPPED = "flipped"

# (benchmark, model -> id -> instruction) -> model -> judgements
JudgeFunction = Callable[[Benchmark, Mapping[str, Mapping[str, Instruction]]], Mapping[str, Sequence[Judgement]]]
Holds = Callable[[Judgement, Judgement, Changes], bool]  # (of the truth, of the perturbed text, ground truth)


class Expectation(NamedTuple):
    """What a test demands of one dimension."""

    words: str
    holds: Holds


def _score(dimension: Dimension, holds: Callable[[float, float], bool], words: str = "") -> Expectation:
    """holds: of the scores of the truth and of the perturbed text."""
    return Expectation(
        words or dimension, lambda before, after, truth: holds(before.scores[dimension], after.scores[dimension])
    )


def _no_new_error(before: Judgement, after: Judgement, truth: Changes) -> bool:
    """Accuracy without its coverage caps, from the labels."""
    return accuracy_of(after.assertions, truth)[1] >= accuracy_of(before.assertions, truth)[1]


class Perturbed(NamedTuple):
    """A test by instructions that are made worse in one way."""

    kind: str  # of perturbation
    name: str
    demand: str  # with {} for the words of the dimensions that are tested
    demands: dict[Dimension, Expectation]


PERTURBED = (
    Perturbed(
        TRUTH,
        "truth",
        "the truth scores 5 in {}",
        {
            "accuracy": _score("accuracy", lambda _, after: after == 5),
            "completeness": _score("completeness", lambda _, after: after == 5),
        },
    ),
    Perturbed(SWAPPED, "sides", "left and right swapped lower {}", {"accuracy": _score("accuracy", operator.gt)}),
    Perturbed(
        SHORTENED, "omission", "a change left out lowers {}", {"completeness": _score("completeness", operator.gt)}
    ),
    Perturbed(
        SHORTENED, "omission is no error", "and makes no error of fact", {"accuracy": Expectation("", _no_new_error)}
    ),
    Perturbed(VAGUE, "vague degree", '"slightly" or "somewhat" lowers {}', {"clarity": _score("clarity", operator.gt)}),
    Perturbed(
        UNRELATED,
        "unrelated",
        "an unrelated text gets {}",
        {
            # 2 where the judge calls it a fabrication rather than unrelated.
            "accuracy": _score("accuracy", lambda _, after: after <= 2, "accuracy 1 or 2"),
            "completeness": _score("completeness", lambda _, after: after == 1, "completeness 1"),
        },
    ),
    Perturbed(
        _FLIPPED,
        "mirror",
        "pictures mirrored and sides swapped change nothing",
        {"accuracy": _score("accuracy", operator.eq), "completeness": _score("completeness", operator.eq)},
    ),
)
# By so much the repeats of one judgement may differ.
_AGREE: dict[Dimension, float] = {"accuracy": 0, "completeness": 0, "clarity": CLARITY_TOLERANCE}


@dataclass(frozen=True)
class Check:
    """One test of a judge: it held on `held` of `total` pairs; `unscored` more were not judged, and `not_applicable`
    cannot be perturbed so."""

    name: str
    demand: str
    held: int
    total: int
    unscored: int
    not_applicable: int
    threshold: float

    @property
    def interval(self) -> tuple[float, float]:
        """95 % Wilson interval of the share."""
        return wilson_interval(self.held, self.total)

    @property
    def verdict(self) -> str:
        """pass, fail, undecided (too few pairs to tell) or not tested (no pair at all)."""
        low, high = self.interval
        if not self.total:
            return "not tested"
        return "pass" if low >= self.threshold else "fail" if high < self.threshold else "undecided"

    def to_json(self) -> dict[str, Any]:
        return asdict(self) | {"interval": list(self.interval), "verdict": self.verdict}

    def __str__(self) -> str:
        low, high = self.interval
        share = f"{self.held} of {self.total} ({low:.0%} .. {high:.0%}, must lie above {self.threshold:.0%})"
        rest = f"{self.unscored} unscored, {self.not_applicable} not applicable"
        return f"{self.verdict:10s}  {self.name}: {self.demand}: {share}; {rest}"


def passed(checks: Sequence[Check]) -> bool:
    """Whether every test that could be made was passed, and there was one. One that could, had the judge scored
    anything, is not passed."""
    made = [check for check in checks if check.verdict != "not tested" or check.unscored]
    return bool(made) and all(check.verdict == "pass" for check in made)


def check_judge(
    benchmark: Benchmark,
    judge: JudgeFunction,
    *,
    dimensions: Sequence[Dimension] = DIMENSIONS,
    threshold: float = THRESHOLD,
) -> list[Check]:
    """Every test of `judge` on the pairs of `benchmark`; repeats are compared with each other where it makes some.

    dimensions: those that the judge scores. A test of others too demands nothing of these, and a test of none of them
    is not made. Raises ValueError for pairs without ground truth, and what the judge raises."""
    if not 0 < threshold < 1:
        raise ValueError(f"threshold={threshold} must lie between 0 and 1")
    pairs = benchmark.pairs()
    truths = {pair.id: pair.changes for pair in pairs if pair.changes is not None}
    bare = [pair.id for pair in pairs if pair.id not in truths]
    if bare:
        raise ValueError(f"benchmark {benchmark.name}: pair {bare[0]} has no ground truth, which a check perturbs")
    rows = {kind: _by_id(own) for kind, own in judge(benchmark, perturbations(benchmark)).items()}
    flipped = FlippedBenchmark(benchmark)
    rows[_FLIPPED] = _by_id(judge(flipped, flipped.truths())[TRUTH]) if len(flipped) else {}

    def check(test: Perturbed) -> Check:
        tested = [dimension for dimension in test.demands if dimension in dimensions]
        counts = {"held": 0, "total": 0, "unscored": 0, "not_applicable": len(truths) - len(rows[test.kind])}
        for pair_id, (after, *_) in rows[test.kind].items():
            before = rows[TRUTH][pair_id][0]
            if _not_applicable(after) or not tested:
                counts["not_applicable"] += 1
            elif any(dimension in row.unscored for row in (before, after) for dimension in tested):
                counts["unscored"] += 1
            else:
                counts["total"] += 1
                counts["held"] += all(test.demands[d].holds(before, after, truths[pair_id]) for d in tested)
        return Check(test.name, _in_words(test.demand, test.demands, tested), **counts, threshold=threshold)

    return [*map(check, PERTURBED), _agreement(rows, dimensions, threshold)]


def _in_words(demand: str, demands: Mapping[Dimension, Expectation], tested: Sequence[Dimension]) -> str:
    return demand.format(" and ".join(demands[dimension].words for dimension in tested or demands))


def _by_id(rows: Sequence[Judgement]) -> dict[str, list[Judgement]]:
    """id -> its repeats, in order."""
    by_id: dict[str, list[Judgement]] = {}
    for row in sorted(rows, key=lambda row: row.repeat):
        by_id.setdefault(row.id, []).append(row)
    return by_id


def _not_applicable(row: Judgement) -> bool:
    return any(NOT_APPLICABLE in reason for reason in row.unscored.values())


def _agreement(
    rows: Mapping[str, Mapping[str, list[Judgement]]], dimensions: Sequence[Dimension], threshold: float
) -> Check:
    """Over every instruction that was judged more than once, perturbed ones too: truths alone would all score 5."""
    tested = [dimension for dimension in _AGREE if dimension in dimensions]
    counts = {"held": 0, "total": 0, "unscored": 0, "not_applicable": 0}
    for repeats in (repeats for own in rows.values() for repeats in own.values()):
        if len(repeats) < 2 or _not_applicable(repeats[0]):
            counts["not_applicable"] += 1
        elif any(dimension in row.unscored for row in repeats for dimension in tested):
            counts["unscored"] += 1
        else:
            scores = {dimension: [row.scores[dimension] for row in repeats] for dimension in tested}
            counts["total"] += 1
            counts["held"] += all(max(own) - min(own) <= _AGREE[dimension] for dimension, own in scores.items())
    words = ", ".join(f"{dimension} within {_AGREE[dimension]:g}" for dimension in tested)
    return Check("repeats", f"repeats give {words}", **counts, threshold=threshold)
