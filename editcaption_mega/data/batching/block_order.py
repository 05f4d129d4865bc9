"""The order of samples where they lie on a network file system: shuffled by blocks, so that reading goes on from place
to place instead of everywhere at once; as pure a function as that of all samples."""

import operator
from collections.abc import Sequence
from typing import NamedTuple

from .order import Order, SampleOrder, splitmix64

BLOCKS_AT_ONCE = 16


class _Epoch(NamedTuple):
    blocks: Sequence[int]  # in their order
    short_at: int  # where the last block of the data, which may have fewer samples, stands in it


class BlockOrder:
    """Which sample stands at which position of an endless, strictly epoch-wise stream.

    Each epoch puts the blocks of `block` consecutive samples in another order, and then shuffles the samples of
    BLOCKS_AT_ONCE blocks after another: what is read within a while comes from as many places. The values never change
    between versions or machines: runs resume by them.
    """

    def __init__(self, size: int, seed: int = 0, *, block: int):
        """Raises ValueError as `SampleOrder`, and for a block of less than a sample."""
        if operator.index(block) < 1:
            raise ValueError(f"BlockOrder takes blocks of 1 sample or more, found {block}")
        self._of_blocks = SampleOrder(-(-operator.index(size) // block), seed)
        self.size, self.seed, self.block = operator.index(size), operator.index(seed), block
        self._lacking = self._of_blocks.size * block - size  # samples of the last block
        self._epoch: tuple[int, _Epoch] = (-1, _Epoch((), 0))
        self._pool: tuple[tuple[int, int], SampleOrder] = ((-1, -1), SampleOrder(1))

    def at(self, position: int) -> int:
        """The sample index, 0 to size - 1, at `position` (0, 1, ... without end). Raises ValueError below 0."""
        position = operator.index(position)
        if position < 0:
            raise ValueError(f"position is {position}: expected 0 or more")
        number, place = divmod(position, self.size)
        epoch = self._of_epoch(number)
        at_once = BLOCKS_AT_ONCE * self.block
        short_pool = epoch.short_at // BLOCKS_AT_ONCE
        pool = place // at_once
        if place >= self._start(short_pool + 1, short_pool):  # behind the pool that lacks samples
            pool = (place + self._lacking) // at_once
        start = self._start(pool, short_pool)
        within = self._of_pool(number, pool, self._start(pool + 1, short_pool) - start).at(place - start)
        first = pool * BLOCKS_AT_ONCE
        if pool == short_pool and within >= (epoch.short_at - first + 1) * self.block - self._lacking:
            within += self._lacking
        block, offset = divmod(within, self.block)
        return epoch.blocks[first + block] * self.block + offset

    def _start(self, pool: int, short_pool: int) -> int:
        """Samples of an epoch before a pool."""
        start = min(pool * BLOCKS_AT_ONCE, self._of_blocks.size) * self.block
        return start - (self._lacking if pool > short_pool else 0)

    def _of_epoch(self, number: int) -> _Epoch:
        known, epoch = self._epoch
        if known != number:
            count = self._of_blocks.size
            blocks = [self._of_blocks.at(number * count + k) for k in range(count)]
            epoch = _Epoch(blocks, blocks.index(count - 1))
            self._epoch = (number, epoch)
        return epoch

    def _of_pool(self, number: int, pool: int, size: int) -> SampleOrder:
        known, order = self._pool
        if known != (number, pool):
            order = SampleOrder(size, splitmix64(splitmix64(splitmix64(self.seed) ^ number) + pool))
            self._pool = ((number, pool), order)
        return order


def order_of(size: int, seed: int, *, shuffle: bool = True, block: int = 0) -> Order:
    """The order of one set. block: samples of a block; 0: all are shuffled as one. Raises ValueError as the orders."""
    return BlockOrder(size, seed, block=block) if shuffle and block else SampleOrder(size, seed, shuffle=shuffle)
