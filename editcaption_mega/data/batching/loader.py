"""Steps for one rank: which samples, in which packed sequences, read and prepared ahead by threads or processes.

Step n takes samples order.at(n G) .. order.at((n + 1) G - 1) for global batch size G, whatever the number of ranks:
the state of the stream is one integer, and a run resumes exactly at any data-parallel size.
"""

import dataclasses
from collections import deque
from collections.abc import Callable, Collection, Generator, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol

from editcaption_mega.data.shards.layout import ShardError
from editcaption_mega.data.shards.unreadable import BadSample, SamplePlace, UnreadableError, named, read_twice

from .batch import PackedBatch
from .dataset import SampleLengths
from .order import Order
from .packing import Packer, Plan
from .row_processes import RowProcesses
from .sample import EncodedSample, NumberedImage


class Samples(Protocol):
    """Samples by their number: of shards (`PairDataset`), or of anything else that has some."""

    def sample(self, i: int) -> EncodedSample: ...


@dataclass(frozen=True)
class SequenceReader[Dataset: Samples]:
    """Reads packed sequences of any samples. Every rank plans for all from `lengths`, which reads nothing, and then
    reads the samples of its own sequences alone. work: that of samples in any unit, by which ranks share a step.
    place: where a sample stands; those that cannot be read are then left out of their sequences. None: they raise."""

    dataset: Dataset
    lengths: SampleLengths
    packer: Packer
    work: Callable[[Sequence[int]], Sequence[float]] | None = None
    place: Callable[[int], SamplePlace] | None = None

    def plan(self, samples: Sequence[int]) -> Plan:
        """This rank's part of these samples. Raises ValueError, alike on every rank, when they cannot be divided."""
        work = None if self.work is None else self.work(samples)
        return self.packer.plan(self.lengths.num_tokens[samples].tolist(), work)

    def read(self, samples: Sequence[int], length: int, without: Collection[int] = ()) -> PackedBatch:
        """One packed sequence of these samples. Raises ValueError, naming the sample, for what cannot be read.

        With `place` there is none of `without` in it and none that cannot be read, which `bad_samples` names."""
        if self.place is None:
            return self._packed(samples, [self._encoded(i) for i in samples], length)
        reasons: dict[int, str] = {}
        while True:
            left = [i for i in samples if i not in reasons and i not in without]
            try:
                encoded = [read_twice(i, partial(self._encoded, i)) for i in left]
                for place, i in enumerate(left):
                    images = tuple(NumberedImage(image, i) for image in encoded[place].images)
                    encoded[place] = dataclasses.replace(encoded[place], images=images)
                batch = self._packed(left, encoded, length)
            except UnreadableError as error:
                reasons[error.number] = error.reason
            else:
                batch.bad_samples = named(reasons, self.place)
                return batch

    def _encoded(self, i: int) -> EncodedSample:
        sample, planned = self.dataset.sample(i), int(self.lengths.num_tokens[i])
        if sample.num_tokens != planned:
            was = f"{planned} when the job began" if planned else "could not be read when the job began"
            raise ShardError(
                f"sample {sample.id} takes {sample.num_tokens} tokens, and {was}: the shards were changed meanwhile; "
                "start the same command again, which goes on where it can"
            )
        return sample

    def _packed(self, samples: Sequence[int], encoded: list[EncodedSample], length: int) -> PackedBatch:
        batch = self.packer.collate(encoded, length)
        batch.sample_numbers = tuple(samples)
        return batch


@dataclass
class Round:
    """Samples that are computed together, and this rank's packed sequences of them."""

    samples: Sequence[int]  # over all ranks
    plan: Plan
    micro_batches: list[PackedBatch]
    left_out: tuple[BadSample, ...] = ()  # over all ranks: those that cannot be read, once these have agreed

    @property
    def length(self) -> int:
        return self.plan.length

    @property
    def rows(self) -> list[list[int]]:
        """The samples of this rank's sequences, as they were planned."""
        return [[self.samples[k] for k in sequence] for sequence in self.plan.sequences]

    @property
    def good(self) -> list[int]:
        """The samples that are computed, over all ranks."""
        return _without(self.samples, self.left_out)

    def leave_out(self, samples: tuple[BadSample, ...], lengths: SampleLengths) -> None:
        self.left_out = samples


def _without(samples: Sequence[int], bad: Iterable[BadSample]) -> list[int]:
    numbers = {sample.number for sample in bad}
    return [i for i in samples if i not in numbers]


def read_ahead(
    reader: SequenceReader[Any],
    rounds: Iterable[Sequence[int]],
    *,
    ahead: int = 1,
    workers: int = 1,
    processes: bool = False,
) -> Generator[Round, None, None]:
    """The rounds of samples in their order, read `ahead` rounds before by `workers` threads, or processes.

    An error in a worker (a picture that cannot be decoded) is raised here, at the round that needs it."""
    with ExitStack() as stack:
        read = reader.read
        if processes:
            read = stack.enter_context(closing(RowProcesses(reader, workers))).read
        pool = stack.enter_context(ThreadPoolExecutor(max_workers=workers, thread_name_prefix="sequences"))
        pending: deque[tuple[Round, list[Future[PackedBatch]]]] = deque()
        try:
            for samples in rounds:
                plan = reader.plan(samples)
                of_round = Round(samples, plan, [])
                reading = [pool.submit(read, row, plan.length) for row in of_round.rows]
                pending.append((of_round, reading))
                if len(pending) == ahead:
                    yield _finished(*pending.popleft())
            while pending:
                yield _finished(*pending.popleft())
        finally:
            for _, reading in pending:
                for future in reading:
                    future.cancel()


def _finished(of_samples: Round, reading: list[Future[PackedBatch]]) -> Round:
    of_samples.micro_batches = [future.result() for future in reading]
    return of_samples


@dataclass
class Step:
    """What one optimizer step computes on this rank."""

    number: int
    micro_batches: list[PackedBatch]
    length: int  # tokens, the same for every micro-batch of the step on every rank
    response_tokens: int  # of the whole step over all ranks: what its mean loss is over (SFT)
    num_samples: int  # of the whole step over all ranks (preference: its pairs), without those that are left out
    padding: float = 0.0  # as of a `Plan`
    imbalance: float = 1.0
    samples: Sequence[int] = ()  # over all ranks
    rows: list[list[int]] = field(default_factory=list)  # as of a `Round`
    left_out: tuple[BadSample, ...] = ()

    @property
    def planned(self) -> int:
        """Samples of the whole step, with those that are left out."""
        return len(self.samples) or self.num_samples

    def leave_out(self, samples: tuple[BadSample, ...], lengths: SampleLengths) -> None:
        """Count without these, which all ranks name alike."""
        good = _without(self.samples, samples)
        self.left_out, self.num_samples = samples, len(good)
        self.response_tokens = int(lengths.answers[good].sum())


class StepStream[Dataset: Samples]:
    """The steps of one rank: a pure function of the step number."""

    def __init__(self, reader: SequenceReader[Dataset], order: Order, global_batch_size: int):
        self.reader, self.order, self.global_batch_size = reader, order, global_batch_size

    def samples(self, number: int) -> list[int]:
        """The samples of a step, over all ranks."""
        first = number * self.global_batch_size
        return [self.order.at(first + k) for k in range(self.global_batch_size)]

    def steps(
        self, first: int, last: int, *, ahead: int = 1, workers: int = 1, processes: bool = False
    ) -> Iterator[Step]:
        """Steps first .. last - 1 in order, read as `read_ahead` says."""
        rounds = map(self.samples, range(first, last))
        read = read_ahead(self.reader, rounds, ahead=ahead, workers=workers, processes=processes)
        with closing(read):
            for number, of_step in enumerate(read, first):
                response_tokens = int(self.reader.lengths.answers[of_step.samples].sum())
                plan, batches = of_step.plan, of_step.micro_batches
                counts = response_tokens, self.global_batch_size
                yield Step(
                    number, batches, plan.length, *counts, plan.padding, plan.imbalance, of_step.samples, of_step.rows
                )
