"""Samples that cannot be read, where a job leaves them out (data.bad_samples=skip): the ranks agree on them before a
step, count them, and stop when they are too many.

A picture is read by few ranks, and a row is built by all that compute it. So ranks that meet a bad sample leave it out
of their rows and say so in the one number that all exchange for each step anyway; only then do all name theirs, and
build again the rows in which they still have one. Nothing moves to another row, so the rows of other samples, the
lengths and the numbers of micro-batches stay, and the loss of the step is the mean over what is left.
"""

from collections.abc import Generator, Iterable, Sequence
from typing import Any, Protocol

from editcaption_mega import platform
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import SampleLengths
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.shards.unreadable import BadSample

# Of so many samples the share may be used up at once, or the first bad one of a run would always be too many.
LEAST_SEEN = 1000


class PackedRows(Protocol):
    """A step or a round."""

    micro_batches: list[PackedBatch]

    @property
    def samples(self) -> Sequence[int]: ...

    @property
    def rows(self) -> list[list[int]]: ...

    @property
    def length(self) -> int: ...

    @property
    def left_out(self) -> tuple[BadSample, ...]: ...

    def leave_out(self, samples: tuple[BadSample, ...], lengths: SampleLengths) -> None: ...


class BadSamples:
    """Those that a pass over the reader's samples has left out. The same on every rank.

    share: of the samples seen, above which the pass ends. count: met before, a sample each time it comes. seen: samples
    before. what: how messages call the data."""

    def __init__(
        self, reader: SequenceReader[Any], share: float, *, count: int = 0, seen: int = 0, what: str = "data.shards"
    ):
        self.reader, self.share, self.count, self.seen, self.what = reader, share, count, seen, what
        self.least = min(LEAST_SEEN, len(reader.lengths.num_tokens))

    def agreed[Item: PackedRows](self, items: Iterable[Item]) -> Generator[Item, None, None]:
        """The items as `platform.each_together` gives them, without bad samples. Collective.

        Raises ValueError, alike on every rank, where these are too many or nothing is left of an item; without `place`
        in the reader, what reading raises."""
        for item in platform.each_together(items, _has_bad_samples, self._settle):
            self.seen += len(item.samples)
            if item.left_out:
                self._take(item)
            yield item

    def _settle(self, item: PackedRows) -> None:
        """Name the bad samples of the item, and have none of them in any row. Collective."""
        known: dict[int, BadSample] = {}
        while True:
            mine = [sample for batch in item.micro_batches for sample in batch.bad_samples]
            met = {sample.number: sample for of_rank in platform.gather(mine) for sample in of_rank}
            if met.keys() <= known.keys():
                break
            known = met | known
            with platform.together():
                for k, (row, batch) in enumerate(zip(item.rows, item.micro_batches, strict=True)):
                    if known.keys() & set(batch.sample_numbers):
                        again = self.reader.read(row, item.length, known.keys())
                        item.micro_batches[k] = again.to(platform.device())
        item.leave_out(tuple(known[number] for number in sorted(known)), self.reader.lengths)

    def _take(self, item: PackedRows) -> None:
        bad = {sample.number for sample in item.left_out}
        met = sum(number in bad for number in item.samples)
        self.count += met
        first, more = item.left_out[0], f" (and {len(bad) - 1} more)" if len(bad) > 1 else ""
        last = f"the last is {first.id} in {first.shard}{more}: {first.reason}"
        mend = "editcaption validate-shards names all of a folder; copy or make it again"
        if met == len(item.samples):
            raise ValueError(
                f"none of {met} samples of {self.what} that are computed at once can be read: {last}. {mend}"
            )
        if self.count > self.share * max(self.seen, self.least):
            raise ValueError(
                f"{self.count:,} of {self.seen:,} samples of {self.what} could not be read, more than "
                f"data.bad_samples_share={self.share:g} of them: {last}. {mend}, or raise the share"
            )


def _has_bad_samples(item: PackedRows) -> bool:
    return any(batch.bad_samples for batch in item.micro_batches)
