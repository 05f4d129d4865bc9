"""Steps for one rank: which samples, in which packed sequences, read and prepared ahead by threads.

Step n takes samples order.at(n G) .. order.at((n + 1) G - 1) for global batch size G, whatever the number of ranks:
the state of the stream is one integer, and a run resumes exactly at any data-parallel size.
"""

from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Protocol

from .batch import PackedBatch
from .dataset import SampleLengths
from .order import SampleOrder
from .packing import Packer, Plan
from .sample import EncodedSample


class Samples(Protocol):
    """Samples by their number: of shards (`PairDataset`), or of anything else that has some."""

    def sample(self, i: int) -> EncodedSample: ...


@dataclass(frozen=True)
class SequenceReader[Dataset: Samples]:
    """Reads packed sequences of any samples. Every rank plans for all from `lengths`, which reads nothing, and then
    reads the samples of its own sequences alone."""

    dataset: Dataset
    lengths: SampleLengths
    packer: Packer

    def plan(self, samples: Sequence[int]) -> Plan:
        """This rank's part of these samples. Raises ValueError, alike on every rank, when they cannot be divided."""
        return self.packer.plan(self.lengths.num_tokens[samples].tolist())

    def read(self, samples: Sequence[int], length: int) -> PackedBatch:
        """One packed sequence of these samples. Raises ValueError, naming the sample, for what cannot be read."""
        encoded = [self.dataset.sample(i) for i in samples]
        for sample, planned in zip(encoded, self.lengths.num_tokens[samples].tolist(), strict=True):
            if sample.num_tokens != planned:
                raise ValueError(
                    f"sample {sample.id} takes {sample.num_tokens} tokens, and {planned} when the job began: the "
                    "shards were changed meanwhile; start the same command again, which goes on where it can"
                )
        return self.packer.collate(encoded, length)


@dataclass
class Step:
    """What one optimizer step computes on this rank."""

    number: int
    micro_batches: list[PackedBatch]
    length: int  # tokens, the same for every micro-batch of the step on every rank
    response_tokens: int  # of the whole step over all ranks: what its mean loss is over (SFT)
    num_samples: int  # of the whole step over all ranks (preference: its pairs)


class StepStream[Dataset: Samples]:
    """The steps of one rank: a pure function of the step number."""

    def __init__(self, reader: SequenceReader[Dataset], order: SampleOrder, global_batch_size: int):
        self.reader, self.order, self.global_batch_size = reader, order, global_batch_size

    def samples(self, number: int) -> list[int]:
        """The samples of a step, over all ranks."""
        first = number * self.global_batch_size
        return [self.order.at(first + k) for k in range(self.global_batch_size)]

    def steps(self, first: int, last: int, *, ahead: int = 1, workers: int = 1) -> Iterator[Step]:
        """Steps first .. last - 1 in order, their sequences read `ahead` steps before by `workers` threads.

        An error in a thread (a picture that cannot be decoded) is raised here, at the step that needs it."""
        with ThreadPoolExecutor(max_workers=workers, thread_name_prefix="sequences") as pool:
            pending: deque[tuple[Step, list[Future[PackedBatch]]]] = deque()
            try:
                for number in range(first, last):
                    pending.append(self._begin(number, pool))
                    if len(pending) == ahead:
                        yield _finished(*pending.popleft())
                while pending:
                    yield _finished(*pending.popleft())
            finally:
                for _, futures in pending:
                    for future in futures:
                        future.cancel()

    def _begin(self, number: int, pool: ThreadPoolExecutor) -> tuple[Step, list[Future[PackedBatch]]]:
        samples = self.samples(number)
        plan = self.reader.plan(samples)
        response_tokens = int(self.reader.lengths.answers[samples].sum())
        futures = [
            pool.submit(self.reader.read, [samples[k] for k in sequence], plan.length) for sequence in plan.sequences
        ]
        return Step(number, [], plan.length, response_tokens, self.global_batch_size), futures


def _finished(step: Step, futures: list[Future[PackedBatch]]) -> Step:
    step.micro_batches = [future.result() for future in futures]
    return step
