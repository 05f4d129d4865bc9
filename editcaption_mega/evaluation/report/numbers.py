"""The numbers of an evaluation: means and shares with their intervals, per benchmark, model and judge."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from editcaption_mega.evaluation import rubric
from editcaption_mega.evaluation.human.verdicts import most_frequent
from editcaption_mega.evaluation.rubric.opinions import FAULTS, MEASURES, WEIGHTED, Labels, can_tell
from editcaption_mega.evaluation.stats.comparisons import (
    EVERYTHING,
    Comparison,
    compare_models,
    judge_repeat_variance,
)
from editcaption_mega.evaluation.stats.intervals import bootstrap_interval, wilson_interval
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
    rank: tuple[int, int] | None  # best and worst place that the intervals of the weighted score allow
    by_category: dict[str, Mean]  # weighted
    by_edit_type: dict[str, Mean]  # weighted
    correct: Rate | None  # wholly correct, of the pairs where the judge can tell
    # Of the pairs where its dimension was judged; a failure mode is absent where the judge never tells it
    faults: dict[str, Rate]
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
        return sum(mean.unscored for mean in self._weighted_means())

    @property
    def asked(self) -> int:
        """Instructions (over all judges), scored or not."""
        return sum(mean.scored + mean.unscored for mean in self._weighted_means())

    def _weighted_means(self) -> Iterator[Mean]:
        for by_benchmark in self.scores.values():
            for by_model in by_benchmark.values():
                yield from (scores.means[WEIGHTED] for scores in by_model.values())


def evaluate(joined: Joined, *, draws: int = 2000, seed: int = 0) -> Evaluation:
    """All numbers of joined results. draws, seed: of the bootstrap."""

    def interval(values: Sequence[float]) -> Interval:
        return bootstrap_interval(values, draws=draws, seed=seed)

    pairs = {name: benchmark.pairs() for name, benchmark in joined.benchmarks.items()}
    scores: dict[str, dict[str, dict[str, ModelScores]]] = {judge: {} for judge in joined.judges}
    comparisons: dict[str, dict[str, list[Comparison]]] = {judge: {} for judge in joined.judges}
    for judge, by_benchmark in joined.labels.items():
        for name, by_model in by_benchmark.items():
            faults = _faults_told(by_model)
            unranked = {
                model: _model_scores(opinions, pairs[name], faults, interval) for model, opinions in by_model.items()
            }
            scores[judge][name] = _ranked(unranked)
            weighted = {
                model: {pair_id: opinion.scores.get(WEIGHTED) for pair_id, opinion in opinions.items()}
                for model, opinions in by_model.items()
            }
            comparisons[judge][name] = compare_models(weighted, draws=draws, seed=seed).get(EVERYTHING, [])
    return Evaluation(
        data_sets={name: _data_set(joined, name, pairs[name]) for name in joined.benchmarks},
        models=joined.models,
        judges=joined.judges,
        scores=scores,
        comparisons=comparisons,
        people={
            name: {model: _people(by_id) for model, by_id in by_model.items()}
            for name, by_model in joined.verdicts.items()
        },
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


def fault_rate(opinions: Iterable[Labels], fault: str) -> Rate:
    """Of the pairs where what the fault is about was judged."""
    judged = [opinion for opinion in opinions if can_tell(opinion, fault)]
    return rate(sum(fault in opinion.faults for opinion in judged), len(judged))


def mean(opinions: Sequence[Labels], measure: str, interval: Callable[[Sequence[float]], Interval]) -> Mean:
    scores = [opinion.scores[measure] for opinion in opinions if measure in opinion.scores]
    ends = [sum(_assuming(opinion, measure, end) for opinion in opinions) / len(opinions) for end in (1, 5)]
    return Mean(
        value=sum(scores) / len(scores) if scores else None,
        interval=interval(scores) if scores else None,
        scored=len(scores),
        unscored=len(opinions) - len(scores),
        bounds=(ends[0], ends[1]),
    )


def _assuming(opinion: Labels, measure: str, missing: float) -> float:
    """The score of a pair when each dimension that has none counts as `missing`."""
    if measure != WEIGHTED:
        return opinion.scores.get(measure, missing)
    return rubric.weighted_score(**{name: opinion.scores.get(name, missing) for name in DIMENSIONS})


def _faults_told(by_model: Mapping[str, Mapping[str, Labels]]) -> list[str]:
    """The faults that are counted: all but the failure modes that this judge never tells."""
    told = {fault for opinions in by_model.values() for opinion in opinions.values() for fault in opinion.faults}
    return [fault for fault in FAULTS if fault not in FAILURE_MODES or fault in told]


def _model_scores(
    by_id: Mapping[str, Labels],
    pairs: Sequence[EditPair],
    faults: Sequence[str],
    interval: Callable[[Sequence[float]], Interval],
) -> ModelScores:
    opinions = list(by_id.values())
    correct = [opinion.correct for opinion in opinions if opinion.correct is not None]

    def means_by(key: Callable[[EditPair], str]) -> dict[str, Mean]:
        groups: dict[str, list[Labels]] = {}
        for pair in pairs:
            groups.setdefault(key(pair), []).append(by_id[pair.id])
        return {name: mean(groups[name], WEIGHTED, interval) for name in sorted(groups)}

    repeats = judge_repeat_variance(by_id)
    return ModelScores(
        means={measure: mean(opinions, measure, interval) for measure in MEASURES},
        rank=None,
        by_category=means_by(lambda pair: pair.category),
        by_edit_type=means_by(lambda pair: pair.edit_type),
        correct=rate(sum(correct), len(correct)) if correct else None,
        faults={fault: fault_rate(opinions, fault) for fault in faults},
        repeats=max(opinion.repeats for opinion in opinions),
        partly=sum(bool(opinion.partly) for opinion in opinions),
        spread={measure: found.within_sd for measure, found in repeats.items() if found.within_sd is not None},
    )


def _ranked(unranked: Mapping[str, ModelScores]) -> dict[str, ModelScores]:
    intervals = {model: scores.means[WEIGHTED].interval for model, scores in unranked.items()}
    ranks = places({model: interval for model, interval in intervals.items() if interval})
    return {model: replace(scores, rank=ranks.get(model)) for model, scores in unranked.items()}


def _people(by_id: Mapping[str, list[HumanVerdict]]) -> People:
    chosen = Counter(most_frequent([verdict.severity for verdict in given]) for given in by_id.values())
    return People(
        pairs=len(by_id),
        annotators=len({verdict.annotator for given in by_id.values() for verdict in given}),
        shares={severity: rate(chosen[severity], len(by_id)) for severity in SEVERITIES},
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
            model: sum(instruction.instruction is None for instruction in by_id.values())
            for model, by_id in joined.instructions[name].items()
        },
    )
