"""What a model does better and worse than the one before it, pair by pair: which pairs it mended, which it broke."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean
from urllib.parse import quote

from editcaption_mega.evaluation.rubric.opinions import WEIGHTED, Labels, can_tell
from editcaption_mega.evaluation.stats.intervals import bootstrap_interval
from editcaption_mega.records import FAILURE_MODES, EditPair

from .join import Joined
from .numbers import Interval, Rate, fault_rate

MOST_CARDS = 24  # of the mended pairs that a page shows, and of the broken ones


@dataclass(frozen=True)
class FaultChange:
    """How often each of the two models has a fault, and how they differ on the same pairs: the mean of +1 where only
    the second has it and -1 where only the first has, with its 95 % interval; None where no pair has both judged."""

    fault: str
    before: Rate
    after: Rate
    difference: float | None
    interval: Interval | None

    @property
    def relative(self) -> float | None:
        """-0.25: a quarter less often. None where the first model never has it."""
        return self.after.share / self.before.share - 1 if self.before.hits else None

    @property
    def settled(self) -> bool:
        """Whether the interval of the differences on the same pairs leaves 0 out."""
        return self.interval is not None and not self.interval[0] <= 0 <= self.interval[1]


@dataclass(frozen=True)
class ModelChange:
    """Two models on one benchmark by one judge, in pair ids: those of which the judge tells both answers' worth."""

    judge: str
    benchmark: str
    before: str
    after: str
    pairs: int  # that the judge can tell of
    untold: int
    mended: tuple[str, ...]  # wrong before, right after
    broken: tuple[str, ...]  # right before, wrong after
    faults: tuple[FaultChange, ...]


@dataclass(frozen=True)
class CardAnswer:
    """What one model wrote for the pair of a card."""

    model: str
    text: str | None
    reason: str | None  # why there is no text
    right: bool | None
    weighted: float | None
    failure_modes: tuple[str, ...]


@dataclass(frozen=True)
class Card:
    """One pair with every model's answer. sample: its number in the page; address: its place there."""

    sample: int
    address: str
    pair: EditPair
    truth: str
    answers: tuple[CardAnswer, ...]


def is_right(opinion: Labels) -> bool | None:
    """Whether nothing is wrong with an instruction: as the judge tells it, else by the severity of its labels. None
    where neither is there."""
    if opinion.correct is not None:
        return opinion.correct
    return None if opinion.severity is None else opinion.severity == "correct"


def changes_of(joined: Joined, before: str, after: str) -> Iterator[ModelChange]:
    """One for each judge and benchmark that have both models. Raises ValueError for a model that is not there."""
    for model in (before, after):
        if model not in joined.models:
            raise ValueError(f"there is no model {model!r} to compare; models here: {', '.join(joined.models)}")
    for judge, by_benchmark in joined.labels.items():
        for benchmark, by_model in by_benchmark.items():
            if before in by_model and after in by_model:
                yield _change(judge, benchmark, {before: by_model[before], after: by_model[after]})


def _change(judge: str, benchmark: str, both: dict[str, dict[str, Labels]]) -> ModelChange:
    (before, first), (after, second) = both.items()
    right = {pair_id: (is_right(first[pair_id]), is_right(second[pair_id])) for pair_id in first}
    told = [pair_id for pair_id, both_right in right.items() if None not in both_right]
    faults = [_fault_change(mode, first, second) for mode in FAILURE_MODES]
    return ModelChange(
        judge, benchmark, before, after,
        pairs=len(told),
        untold=len(right) - len(told),
        mended=tuple(pair_id for pair_id in told if right[pair_id] == (False, True)),
        broken=tuple(pair_id for pair_id in told if right[pair_id] == (True, False)),
        faults=tuple(change for change in faults if change.before.hits or change.after.hits),
    )  # fmt: skip


def _fault_change(fault: str, first: Mapping[str, Labels], second: Mapping[str, Labels]) -> FaultChange:
    both = [(one, second[pair_id]) for pair_id, one in first.items()]
    differences = [
        float(fault in after.faults) - float(fault in before.faults)
        for before, after in both
        if can_tell(before, fault) and can_tell(after, fault)
    ]
    return FaultChange(
        fault,
        fault_rate(first.values(), fault),
        fault_rate(second.values(), fault),
        difference=fmean(differences) if differences else None,
        interval=bootstrap_interval(differences) if differences else None,
    )


def cards(joined: Joined, change: ModelChange, pair_ids: Sequence[str]) -> list[Card]:
    """Up to MOST_CARDS of the pairs, every edit type in turn, so that the first ones show the breadth."""
    benchmark = joined.benchmarks[change.benchmark]
    positions = {pair_id: i for i, pair_id in enumerate(benchmark.ids)}
    pairs = [benchmark.pair(positions[pair_id]) for pair_id in pair_ids]
    first_sample = 0
    for name, other in joined.benchmarks.items():
        if name == change.benchmark:
            break
        first_sample += len(other)
    return [
        Card(
            sample=first_sample + positions[pair.id],
            address=f"#{_quoted(change.benchmark)}/{_quoted(pair.id)}",
            pair=pair,
            truth=" ".join(change.text for change in pair.changes.primary) if pair.changes else pair.instruction or "",
            answers=tuple(_answers(joined, change, pair.id)),
        )
        for pair in _types_in_turn(pairs)[:MOST_CARDS]
    ]


def _answers(joined: Joined, change: ModelChange, pair_id: str) -> Iterator[CardAnswer]:
    for model, opinions in joined.labels[change.judge][change.benchmark].items():
        instruction, opinion = joined.instructions[change.benchmark][model][pair_id], opinions[pair_id]
        modes = tuple(mode for mode in FAILURE_MODES if mode in opinion.faults)
        right, weighted = is_right(opinion), opinion.scores.get(WEIGHTED)
        yield CardAnswer(model, instruction.instruction, instruction.reason, right, weighted, modes)


def _types_in_turn(pairs: Sequence[EditPair]) -> list[EditPair]:
    by_type: dict[str, list[EditPair]] = {}
    for pair in pairs:
        by_type.setdefault(pair.edit_type, []).append(pair)
    most = max(map(len, by_type.values()), default=0)
    return [group[turn] for turn in range(most) for group in by_type.values() if turn < len(group)]


def _quoted(text: str) -> str:
    return quote(text, safe="!'()*")  # as JavaScript's encodeURIComponent
