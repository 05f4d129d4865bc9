"""The order of samples: a pure function of (seed, epoch, position), so that a run's place in its data is one integer.

Each epoch is a permutation made by a balanced Feistel network over the smallest 2^(2h) >= size; values that fall
outside are walked on until they fall inside (cycle walking, fewer than 4 steps on average). Nothing is stored but keys.
"""

import hashlib
import operator
from typing import Protocol

_ROUNDS = 8
_MASK64 = (1 << 64) - 1
_LARGEST_SIZE = 1 << 62


class Order(Protocol):
    """An endless stream of samples."""

    def at(self, position: int) -> int:
        """The sample index at `position` (0, 1, ..): a pure function."""
        ...


class SampleOrder:
    """Which sample stands at which position of an endless, strictly epoch-wise stream.

    Position p lies in epoch p // size, and each epoch visits every sample exactly once, in another order.
    `shuffle=False` gives 0, 1, ..., size - 1 in every epoch. The values never change between versions or machines:
    runs resume by them.
    """

    def __init__(self, size: int, seed: int = 0, *, shuffle: bool = True):
        """Raises ValueError unless 1 <= size <= 2**62 and both size and seed are integers."""
        try:
            self.size, self.seed = operator.index(size), operator.index(seed)
        except TypeError:
            raise ValueError(f"SampleOrder takes integers, found size={size!r}, seed={seed!r}") from None
        if not 1 <= self.size <= _LARGEST_SIZE:
            raise ValueError(f"SampleOrder size is {self.size}: expected 1 to 2**62; is the set of shards empty?")
        self.shuffle = shuffle
        self._half = max(1, ((self.size - 1).bit_length() + 1) // 2)
        self._keys = (0, self._epoch_keys(0))

    def at(self, position: int) -> int:
        """The sample index, 0 to size - 1, at `position` (0, 1, ... without end). Raises ValueError below 0."""
        position = operator.index(position)
        if position < 0:
            raise ValueError(f"position is {position}: expected 0 or more")
        epoch, index = divmod(position, self.size)
        if not self.shuffle:
            return index
        cached_epoch, keys = self._keys
        if cached_epoch != epoch:
            keys = self._epoch_keys(epoch)
            self._keys = (epoch, keys)
        index = self._permute(index, keys)
        while index >= self.size:
            index = self._permute(index, keys)
        return index

    def epoch(self, position: int) -> int:
        """The epoch, counted from 0, that `position` lies in."""
        return operator.index(position) // self.size

    def _permute(self, value: int, keys: tuple[int, ...]) -> int:
        mask = (1 << self._half) - 1
        left, right = value >> self._half, value & mask
        for key in keys:
            left, right = right, left ^ (splitmix64(right ^ key) & mask)
        return (left << self._half) | right

    def _epoch_keys(self, epoch: int) -> tuple[int, ...]:
        text = f"editcaption-mega order 1|{self.size}|{self.seed}|{epoch}".encode()
        digest = hashlib.blake2b(text, digest_size=8 * _ROUNDS).digest()
        return tuple(int.from_bytes(digest[8 * i : 8 * i + 8], "little") for i in range(_ROUNDS))

    def __repr__(self) -> str:
        return f"SampleOrder(size={self.size}, seed={self.seed}, shuffle={self.shuffle})"


def splitmix64(value: int) -> int:
    """The finalizer of SplitMix64: 64 bits in, 64 well-mixed bits out."""
    value = ((value ^ (value >> 30)) * 0xBF58476D1CE4E5B9) & _MASK64
    value = ((value ^ (value >> 27)) * 0x94D049BB133111EB) & _MASK64
    return value ^ (value >> 31)
