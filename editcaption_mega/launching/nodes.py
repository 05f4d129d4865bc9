"""Which nodes of its allocation a job is started on: those it was given at first, then without those that were lost."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

SPARES, FEWEST = "SPARE_NODES", "MIN_NODES"


@dataclass(frozen=True)
class NodeCounts:
    """How many nodes of its allocation a job trains on, and with how many it may go on."""

    wanted: int
    fewest: int
    spares: int = 0

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], num_nodes: int) -> NodeCounts:
        """For an allocation of `num_nodes`. Raises ValueError for counts that it has no room for."""
        spares = _count(environment, SPARES, 0, 0, num_nodes - 1, f"nodes of the job's {num_nodes} that wait")
        wanted = num_nodes - spares
        fewest = _count(environment, FEWEST, wanted, 1, wanted, "nodes with which the job may go on")
        return cls(wanted, fewest, spares)

    @property
    def outlives_nodes(self) -> bool:
        """Whether the job can go on in its allocation without one of its nodes."""
        return self.spares > 0 or self.fewest < self.wanted


@dataclass(frozen=True)
class BatchLayout:
    """What the ranks of a training job have noted: in which numbers of ranks it can compute its global batch."""

    rank_multiple: int  # ranks that whole copies of the model come in
    model_parallel_size: int  # ranks that share the same samples
    global_batch_size: int  # samples
    sequence_multiple: int = 1  # rows of a data-parallel rank come in multiples of this
    packing: bool = True  # rows hold as many samples as fit; else one, so they must divide the batch

    @classmethod
    def parse(cls, noted: Mapping[str, Any]) -> BatchLayout | None:
        """None where nothing, or nothing of use, was noted."""
        try:
            return cls(**noted)
        except TypeError:
            return None

    def fits(self, ranks: int) -> bool:
        if ranks % self.rank_multiple:
            return False
        rows = ranks // self.model_parallel_size * self.sequence_multiple
        return rows <= self.global_batch_size if self.packing else self.global_batch_size % rows == 0


def choose_nodes(
    up: Sequence[str], counts: NodeCounts, ranks_per_node: int, layout: BatchLayout | None
) -> Sequence[str]:
    """The nodes to start on, of those that are `up`, first ones first: as many as wanted, else the most that the layout
    and the batch can use; none where the job had better go back into the queue. A pure function."""
    if len(up) >= counts.wanted:
        return up[: counts.wanted]
    for count in range(len(up), counts.fewest - 1, -1):
        if layout and layout.fits(count * ranks_per_node):
            return up[:count]
    return ()


def _count(environment: Mapping[str, str], name: str, default: int, least: int, most: int, what: str) -> int:
    value = environment.get(name) or str(default)
    if not value.isdecimal() or not least <= int(value) <= most:
        raise ValueError(f"{name} is {value!r}, expected the number of {what}, from {least} to {most}")
    return int(value)
