"""The order of samples of several sets that are mixed by weights: a pure function of (seed, position), as that of one.

Of the first P samples a set of share a / A has more than a P / A - 1 and fewer than a P / A + 1, for every P. Its j-th
sample (from 1) then has a window: slot floor((j - 1) A / a) + 1 .. ceil(j A / a), and the earliest end among the open
windows goes first, which meets all of them: each slot has one sample, and the sets' even shares of the slots are a
solution in fractions (Tijdeman, The chairman assignment problem, 1980, has the bound; Liu and Layland, 1973, the rule).
After A slots every set has had its share exactly, and the pattern begins again.
"""

import heapq
import operator
from collections.abc import Sequence
from itertools import accumulate

import numpy as np

from .block_order import order_of
from .order import splitmix64


class MixedOrder:
    """Which sample stands at which position of an endless stream of K sets, which stand one after another in the data.

    Each set has epochs of its own: none of its samples comes for the (n + 1)-th time before all have come n times.
    The values never change between versions or machines: runs resume by them.
    """

    def __init__(
        self, sizes: Sequence[int], shares: Sequence[int], seed: int = 0, *, shuffle: bool = True, block: int = 0
    ):
        """sizes [K]: samples of each set. shares [K]: of each set in every sum(shares) samples; the pattern takes 8
        bytes for each of these. shuffle, block: as `order_of`, in each set.

        Raises ValueError unless each of them is an integer of at least 1, as many of one as of the other."""
        self.sizes, self.shares = list(map(operator.index, sizes)), list(map(operator.index, shares))
        if len(self.sizes) != len(self.shares) or not self.sizes or min(*self.sizes, *self.shares) < 1:
            raise ValueError(f"MixedOrder takes a size and a share for each set, found {self.sizes}, {self.shares}")
        self.seed = operator.index(seed)
        self._starts = [0, *accumulate(self.sizes)]
        self._orders = [
            order_of(size, splitmix64(splitmix64(self.seed) + k), shuffle=shuffle, block=block)
            for k, size in enumerate(self.sizes)
        ]
        self._sets, self._before = _pattern(self.shares)

    def at(self, position: int) -> int:
        """The sample index, 0 to sum(sizes) - 1, at `position` (0, 1, ... without end). Raises ValueError below 0."""
        position = operator.index(position)
        if position < 0:
            raise ValueError(f"position is {position}: expected 0 or more")
        cycle, slot = divmod(position, len(self._sets))
        k = int(self._sets[slot])
        return self._starts[k] + self._orders[k].at(cycle * self.shares[k] + int(self._before[slot]))

    def taken(self, count: int) -> list[int]:
        """[K]: how many of the first `count` samples of the stream are of each set."""
        cycles, slots = divmod(count, len(self._sets))
        in_part = np.bincount(self._sets[:slots], minlength=len(self.shares)).tolist()
        return [cycles * share + more for share, more in zip(self.shares, in_part, strict=True)]


def _pattern(shares: Sequence[int]) -> tuple[np.ndarray, np.ndarray]:
    """-> the set of each slot, and how many slots before it are of the same set; both [sum(shares)] int32."""
    period = sum(shares)
    sets, before = np.empty(period, np.int32), np.empty(period, np.int32)
    taken = [0] * len(shares)
    closed = [(1, k) for k in range(len(shares))]  # (first slot of its next window, set)
    opened: list[tuple[int, int]] = []  # (last slot of its window, set)
    for slot in range(1, period + 1):
        while closed and closed[0][0] <= slot:
            _, k = heapq.heappop(closed)
            heapq.heappush(opened, (-(-(taken[k] + 1) * period // shares[k]), k))
        _, k = heapq.heappop(opened)
        sets[slot - 1], before[slot - 1] = k, taken[k]
        taken[k] += 1
        heapq.heappush(closed, (taken[k] * period // shares[k] + 1, k))
    return sets, before
