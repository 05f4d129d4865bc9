"""The numbers of an evaluation: means and shares with their intervals, per benchmark, model and judge."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass

from editcaption_mega.evaluation import rubric
from editcaption_mega.evaluation.human.verdicts import most_frequent
from editcaption_mega.evaluation.rubric.opinions import FAULTS, MEASURES, WEIGHTED, Labels, can_tell
from editcaption_mega.evaluation.stats.comparisons import EVERYTHING, Comparison, compare_models
from editcaption_mega.evaluation.stats.intervals import bootstrap_interval, repeat_variance, wilson_interval
from editcaption_mega.records import DIMENSIONS, SEVERITIES, EditPair, HumanVerdict
from editcaption_mega.records.pair import FAILURE_MODES

from .join import Joined

Interval = tuple[float, float]


@dataclass(frozen=True)
class Mean:
    """Mean of a score (1 .. 5) over the pairs that have it, with its 95 % bootstrap interval.

    bounds: the mean over all pairs if every missing score of a dimension were 1, and if it were 5. value and interval
    are None when no pair has a score."""

    value: float | None
    interval: Interval | None
    scored: int
    unscored: int
    bounds: Interval


@dataclass(frozen=True)
class Rate:
    """A share of pairs with its 95 % Wilson interval."""

    hits: int
    total: int
    share: float
    interval: Interval


@dataclass(frozen=True)
class ModelScores:
    """One model on one benchmark by one judge."""

    means: dict[str, Mean]  # by measure: weighted, accuracy, completeness, clarity
    rank: Interval | None  # best and worst place that the intervals of the weighted score allow
    by_category: dict[str, Mean]  # weighted
    by_edit_type: dict[str, Mean]  # weighted
    correct: Rate | None  # wholly correct, of the pairs where the judge can tell
    faults: dict[
        str, Rate
    ]  # of the pairs where its dimension was judged; a failure mode is absent where the judge never tells it
    repeats: int  # most repeats of a pair
    partly: int  # pairs of which some repeats have no score
    spread: dict[str, float]  # by measure: pooled standard deviation between the repeats of a pair


@dataclass(frozen=True)
class People:
    """What people said of one model: share of each severity (table 3). Several annotators of a pair count as one, by
    the severity that most of them chose, the worse one in a tie."""

    pairs: int
    annotators: int
    shares: dict[str, Rate]


@dataclass(frozen=True)
class DataSet:
    """One benchmark, and of each model how many pairs it wrote no instruction for."""

    name: str
    pairs: int
    with_truth: int
    categories: dict[str, int]
    edit_types: dict[str, int]
    fingerprint: str
    unwritten: dict[str, int]


@dataclass(frozen=True)
class Evaluation:
    """Everything that is printed; `dataclasses.asdict` of it is numbers.json."""

    data_sets: dict[str, DataSet]
    models: list[str]
    judges: list[str]
    scores: dict[str, dict[str, dict[str, ModelScores]]]  # judge -> benchmark -> model
    comparisons: dict[str, dict[str, list[Comparison]]]  # judge -> benchmark: every two models, paired
    people: dict[str, dict[str, People]]  # benchmark -> model

    @property
    def unscored(self) -> int:
        """Instructions (over all judges) without a weighted score."""
        return sum(s.means[WEIGHTED].unscored for j in self.scores.values() for b in j.values() for s in b.values())

    @property
    def asked(self) -> int:
        found = (s.means[WEIGHTED] for j in self.scores.values() for b in j.values() for s in b.values())
        return sum(mean.scored + mean.unscored for mean in found)


def evaluate(joined: Joined, *, draws: int = 2000, seed: int = 0) -> Evaluation:
    """All numbers of joined results. draws, seed: of the bootstrap."""

    def interval(values: Sequence[float]) -> Interval:
        return bootstrap_interval(values, draws=draws, seed=seed)

    pairs = {name: benchmark.pairs() for name, benchmark in joined.benchmarks.items()}
    scores: dict = {}
    comparisons: dict = {}
    for judge, by_benchmark in joined.labels.items():
        for name, by_model in by_benchmark.items():
            told = {fault for labels in by_model.values() for one in labels.values() for fault in one.faults}
            faults = [fault for fault in FAULTS if fault not in FAILURE_MODES or fault in told]
            found = {m: _scores(labels, pairs[name], faults, interval) for m, labels in by_model.items()}
            scores.setdefault(judge, {})[name] = _ranked(found)
            weighted = {m: {i: one.scores.get(WEIGHTED) for i, one in ls.items()} for m, ls in by_model.items()}
            compared = compare_models(weighted, draws=draws, seed=seed)
            comparisons.setdefault(judge, {})[name] = compared.get(EVERYTHING, [])
    return Evaluation(
        data_sets={name: _data_set(joined, name, pairs[name]) for name in joined.benchmarks},
        models=joined.models,
        judges=joined.judges,
        scores=scores,
        comparisons=comparisons,
        people={name: {m: _people(rows) for m, rows in found.items()} for name, found in joined.verdicts.items()},
    )


def places(intervals: Mapping[str, Interval]) -> dict[str, tuple[int, int]]:
    """Best and worst place of each: what lies wholly above it is surely better, what lies wholly below surely worse."""
    return {
        name: (
            1 + sum(other[0] > high for other in intervals.values()),
            len(intervals) - sum(other[1] < low for other in intervals.values()),
        )
        for name, (low, high) in intervals.items()
    }


def rate(hits: int, total: int) -> Rate:
    return Rate(hits, total, hits / total if total else 0.0, wilson_interval(hits, total))


def mean(labels: Sequence[Labels], measure: str, interval: Callable[[Sequence[float]], Interval]) -> Mean:
    values = [one.scores[measure] for one in labels if measure in one.scores]
    ends = [sum(_assuming(one, measure, least) for one in labels) / len(labels) for least in (1, 5)]
    return Mean(
        value=sum(values) / len(values) if values else None,
        interval=interval(values) if values else None,
        scored=len(values),
        unscored=len(labels) - len(values),
        bounds=(ends[0], ends[1]),
    )


def _assuming(one: Labels, measure: str, value: float) -> float:
    """The score of a pair when each dimension that has none counts as `value`."""
    if measure != WEIGHTED:
        return one.scores.get(measure, value)
    return rubric.weighted_score(**{name: one.scores.get(name, value) for name in DIMENSIONS})


def _scores(
    labels: Mapping[str, Labels], pairs: Sequence[EditPair], faults: Sequence[str], interval: Callable
) -> ModelScores:
    everything = list(labels.values())
    told = [one.correct for one in everything if one.correct is not None]

    def groups(key: Callable[[EditPair], str]) -> dict[str, Mean]:
        found: dict[str, list[Labels]] = {}
        for pair in pairs:
            found.setdefault(key(pair), []).append(labels[pair.id])
        return {name: mean(found[name], WEIGHTED, interval) for name in sorted(found)}

    return ModelScores(
        means={measure: mean(everything, measure, interval) for measure in MEASURES},
        rank=None,
        by_category=groups(lambda pair: pair.category),
        by_edit_type=groups(lambda pair: pair.edit_type),
        correct=rate(sum(told), len(told)) if told else None,
        faults={fault: _fault_rate(everything, fault) for fault in faults},
        repeats=max(one.repeats for one in everything),
        partly=sum(bool(one.partly) for one in everything),
        spread={measure: found for measure in MEASURES if (found := _within(labels, measure)) is not None},
    )


def _fault_rate(labels: Sequence[Labels], fault: str) -> Rate:
    judged = [one for one in labels if can_tell(one, fault)]
    return rate(sum(fault in one.faults for one in judged), len(judged))


def _within(labels: Mapping[str, Labels], measure: str) -> float | None:
    return repeat_variance({pair_id: one.values.get(measure, []) for pair_id, one in labels.items()}).within_sd


def _ranked(found: dict[str, ModelScores]) -> dict[str, ModelScores]:
    intervals = {name: one.means[WEIGHTED].interval for name, one in found.items() if one.means[WEIGHTED].interval}
    ranks = places(intervals)
    return {name: ModelScores(**{**vars(one), "rank": ranks.get(name)}) for name, one in found.items()}


def _people(rows: Mapping[str, list[HumanVerdict]]) -> People:
    chosen = Counter(most_frequent([one.severity for one in given]) for given in rows.values())
    return People(
        pairs=len(rows),
        annotators=len({one.annotator for given in rows.values() for one in given}),
        shares={name: rate(chosen[name], len(rows)) for name in SEVERITIES},
    )


def _data_set(joined: Joined, name: str, pairs: Sequence[EditPair]) -> DataSet:
    return DataSet(
        name=name,
        pairs=len(pairs),
        with_truth=sum(pair.changes is not None for pair in pairs),
        categories=dict(sorted(Counter(pair.category for pair in pairs).items())),
        edit_types=dict(sorted(Counter(pair.edit_type for pair in pairs).items())),
        fingerprint=joined.benchmarks[name].fingerprint,
        unwritten={
            model: sum(row.instruction is None for row in rows.values())
            for model, rows in joined.instructions[name].items()
        },
    )
