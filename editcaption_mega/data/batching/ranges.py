"""A pass over all samples in ranges, each of which one data-parallel rank reads, computes and writes by itself."""

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass

from .dataset import PairDataset
from .loader import Round, SequenceReader
from .packing import Plan


@dataclass(frozen=True)
class RangeReader(SequenceReader[PairDataset]):
    """Reads rounds of consecutive samples: the first `size` of them are of data-parallel rank 0, the next of rank 1, ..

    A range is packed without a look at the others, so that its numbers are the same whoever computes it and whatever
    was computed before a pause. together: all ranks compute as many sequences of one length, because experts are
    divided among them; what a rank has too few of is computed again, and dropped."""

    size: int = 1
    together: bool = False

    @classmethod
    def of(cls, reader: SequenceReader[PairDataset], size: int, *, together: bool) -> "RangeReader":
        """A range is of any size, so its samples must be packed."""
        packer = dataclasses.replace(reader.packer, packing=True)
        return cls(reader.dataset, reader.lengths, packer, place=reader.place, size=size, together=together)

    def own(self, samples: Sequence[int]) -> Sequence[int]:
        """This rank's range of a round: fewer than `size`, or none, where the samples end."""
        first = self.packer.share.data_parallel_rank * self.size
        return samples[first : first + self.size]

    def counted(self, of_round: Round) -> list[bool]:
        """Of each of this rank's sequences of a round, whether it counts: what is computed again, because others have
        more or a pipeline needs as many, does not."""
        first = self.packer.share.data_parallel_rank * self.size
        left = set(range(first, first + self.size))
        counted = []
        for places in of_round.plan.sequences:
            counted.append(left.issuperset(places))
            left.difference_update(places)
        return counted

    def plan(self, samples: Sequence[int]) -> Plan:
        """This rank's sequences of a round, as places in the round."""
        share = self.packer.share
        ranges = [range(first, first + self.size) for first in range(0, len(samples), self.size)]
        if not self.together:
            return self._of_range(samples, ranges, share.data_parallel_rank)
        plans = [self._of_range(samples, ranges, part) for part in range(len(ranges))]
        count, length = max(len(plan.sequences) for plan in plans), max(plan.length for plan in plans)
        own = plans[min(share.data_parallel_rank, len(plans) - 1)].sequences
        return Plan([own[k % len(own)] for k in range(count)], length)

    def _of_range(self, samples: Sequence[int], ranges: Sequence[range], part: int) -> Plan:
        if part >= len(ranges):
            return Plan([], 0)
        multiple = self.packer.share.sequence_multiple
        places = list(ranges[part])[: len(samples) - ranges[part].start]
        places += [places[-1]] * (multiple - len(places))  # too few for an interleaved pipeline: one is done again
        alone = dataclasses.replace(self.packer.share, data_parallel_size=1, data_parallel_rank=0)
        packer = dataclasses.replace(self.packer, share=alone)
        plan = packer.plan(self.lengths.num_tokens[[samples[place] for place in places]].tolist())
        return Plan([[places[k] for k in sequence] for sequence in plan.sequences], plan.length)
