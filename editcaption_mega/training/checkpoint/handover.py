"""Ranks of a full pipeline stage hand a part of what they have to write to ranks that have less, so that a checkpoint
takes about as long on each.

Inside a stage ranks are level (`conversion.param_shards`). The stages are not where one holds the vision tower or the
LM head and few layers: of 235B-A22B some hold 14 of 94 layers and the first none. What is handed over has come to the
host, and travels between hosts (gloo), while the givers write the rest.
"""

import heapq
from collections.abc import Sequence
from fractions import Fraction
from math import ceil
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor

from editcaption_mega import platform

from .contents import StoredRange

MOST = Fraction(11, 10)  # that a rank writes, over the mean


class Handover(NamedTuple):
    """Bytes that rank `giver` has rank `taker` write."""

    giver: int
    taker: int
    nbytes: int


def handovers(sizes: Sequence[int]) -> list[Handover]:
    """What ranks that have `sizes` bytes to write hand over, so that none writes more than `MOST` of the mean. The same
    on every rank; nobody gives and takes."""
    most = ceil(MOST * sum(sizes) / len(sizes))
    takers = [(size, rank) for rank, size in enumerate(sizes) if size < most]
    heapq.heapify(takers)
    plan = []
    for giver in sorted(range(len(sizes)), key=lambda rank: (-sizes[rank], rank)):
        excess = sizes[giver] - most
        while excess > 0:
            size, taker = heapq.heappop(takers)
            nbytes = min(excess, most - size)
            plan.append(Handover(giver, taker, nbytes))
            excess -= nbytes
            if size + nbytes < most:
                heapq.heappush(takers, (size + nbytes, taker))
    return plan


def written_bytes(sizes: Sequence[int]) -> list[int]:
    """What each rank writes after the handovers."""
    written = list(sizes)
    for giver, taker, nbytes in handovers(sizes):
        written[giver] -= nbytes
        written[taker] += nbytes
    return written


class Trade:
    """The handovers of one checkpoint: `ranges` are what this rank writes of it, and `finish` is called when they are
    written. Making it is collective. `takers` are the ranks that others give to.

    ranges: what this rank has to write. group: `platform.host_group()`. What is given stays where it is until
    `finish`, and what is taken has new memory of the host."""

    def __init__(self, ranges: Sequence[StoredRange], group: platform.Group):
        self.ranges, self._sent = list(ranges), list[tuple[dist.Work, Tensor]]()
        rank, sizes = platform.rank(), platform.gather(sum(stored.values.nbytes for stored in ranges), group)
        plan = handovers(sizes)
        self.takers = sorted({handover.taker for handover in plan})
        for _, taker, nbytes in (handover for handover in plan if handover.giver == rank):
            self.ranges, given = _divided(self.ranges, nbytes)
            dist.send_object_list([[stored._replace(values=_like(stored.values)) for stored in given]], taker, group)
            for tag, stored in enumerate(given, start=1):
                content = _bytes(stored.values.cpu())
                self._sent.append((_begun(dist.isend(content, taker, group, tag)), content))
        coming = []
        for giver, _, _ in (handover for handover in plan if handover.taker == rank):
            message: list[list[StoredRange]] = [[]]
            dist.recv_object_list(message, giver, group)
            for tag, stored in enumerate(message[0], start=1):
                values = torch.empty(stored.values.shape, dtype=stored.values.dtype)
                self.ranges.append(stored._replace(values=values))
                coming.append(_begun(dist.irecv(_bytes(values), giver, group, tag)))
        for work in coming:
            work.wait()

    def finish(self) -> None:
        """Until what was given is with its takers."""
        while self._sent:
            self._sent.pop()[0].wait()


def _divided(ranges: list[StoredRange], nbytes: int) -> tuple[list[StoredRange], list[StoredRange]]:
    """All but the last `nbytes` of the ranges, and these: whole elements, one more where they do not divide."""
    kept, given = list(ranges), []
    while nbytes > 0 and kept:
        stored = kept.pop()
        count = min(stored.values.numel(), -(-nbytes // stored.values.element_size()))
        left = stored.values.numel() - count
        if left:
            kept.append(stored._replace(values=stored.values[:left]))
        if count:
            given.append(stored._replace(start=stored.start + left, values=stored.values[left:]))
        nbytes -= count * stored.values.element_size()
    return kept, given


def _like(values: Tensor) -> Tensor:
    """Size and dtype alone."""
    return torch.empty_like(values, device="meta")


def _bytes(values: Tensor) -> Tensor:
    return values.view(torch.uint8)  # gloo does not know every dtype


def _begun(work: dist.Work | None) -> dist.Work:
    assert work is not None, "both ranks are of the group"
    return work
