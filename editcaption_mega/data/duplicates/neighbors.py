"""Pictures whose hashes are near to one another, without comparing all with all: multi-index hashing (Norouzi et al.
2012) with the probes of Lv et al. 2007.

The bits are dealt to bands; near are those with all bits of a band alike. A picture is also looked up with the weakest
bits of the band flipped, which are those that saving anew flips.
"""

from collections.abc import Iterator
from itertools import product
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .look_hashes import BITS, Hashes, LookHashes

MOST_BITS = 13  # by which hashes of one picture may differ
_FEWEST_PER_BAND, _MOST_PER_BAND = 12, 21
_FLIPPED = 3  # weakest bits of a band
_MOST_ALIKE = 128  # pictures that one probe meets: those of plain pictures are all alike
_AT_ONCE = 1 << 21  # candidates in memory
_ROWS = 1 << 16

Places = NDArray[np.int64]


class Neighbors(NamedTuple):
    """query, other [M]: places of pictures, each two once; left_out: probes that met more than _MOST_ALIKE pictures."""

    query: Places
    other: Places
    left_out: int


def band_bits(pictures: int) -> int:
    """Bits of a band, so that one value has about one picture of so many."""
    return int(np.clip(np.ceil(np.log2(max(2, pictures))), _FEWEST_PER_BAND, _MOST_PER_BAND))


def neighbors(queries: LookHashes, others: Hashes, bits: int = 0) -> Neighbors:
    """Which of `others` are within MOST_BITS of which query. bits: of a band; 0: as their number asks.

    Finds all with a band whose differing bits are among its _FLIPPED weakest of the query."""
    bits = bits or band_bits(len(others))
    bands, pairs, left_out = BITS // bits, [], 0
    for band in range(bands):
        mine = np.arange(band, bands * bits, bands)
        bucket = _Bucket.of(_key(others, mine), bits)
        for probes in _probes(queries, mine, bits):
            part, more = _matches(probes, bucket, queries.bits, others)
            pairs.append(part)
            left_out += more
    pair = distinct(np.concatenate(pairs))
    return Neighbors(pair // len(others), pair % len(others), left_out)


def distinct(values: Places) -> Places:
    """[M], each once and sorted (np.unique hashes, which takes five times as long)."""
    values = np.sort(values)
    once: Places = values[np.diff(values, prepend=values[:1] - 1) != 0]
    return once


class _Bucket(NamedTuple):
    """order [N]: places by key; starts [2 ** bits + 1]: where those of each key begin in it."""

    order: Places
    starts: Places

    @classmethod
    def of(cls, keys: NDArray[np.uint32], bits: int) -> "_Bucket":
        counts = np.bincount(keys, minlength=1 << bits)
        return cls(np.argsort(keys, kind="stable"), np.concatenate([[0], np.cumsum(counts)]))


def _key(hashes: Hashes, places: Places) -> NDArray[np.uint32]:
    """[N]: the bits at these places, as a number."""
    key = np.zeros(len(hashes), np.uint32)
    for to, place in enumerate(places.tolist()):
        key |= ((hashes >> np.uint64(place)) & np.uint64(1)).astype(np.uint32) << np.uint32(to)
    return key


def _probes(queries: LookHashes, places: Places, bits: int) -> Iterator[NDArray[np.uint32]]:
    """Keys [N], as they are and with each choice of the weakest bits flipped."""
    key = _key(queries.bits, places)
    masks = np.uint32(1) << _weakest(queries.order, places).astype(np.uint32)
    for choice in product((0, 1), repeat=_FLIPPED):
        flips = np.zeros(len(key), np.uint32)
        for flipped, mask in zip(choice, masks, strict=True):
            if flipped:
                flips |= mask
        yield key ^ flips


def _weakest(order: NDArray[np.uint8], places: Places) -> NDArray[np.int8]:
    """[_FLIPPED, N]: the weakest bits of the band at these places, as places in it."""
    in_band = np.full(BITS, -1, np.int8)
    in_band[places] = np.arange(len(places))
    weakest = np.empty((_FLIPPED, len(order)), np.int8)
    for start in range(0, len(order), _ROWS):
        bits = in_band[order[start : start + _ROWS]]  # [n, 64], the weakest first; -1: of another band
        rank = np.cumsum(bits >= 0, axis=1, dtype=np.int8)
        rows = np.arange(len(bits))
        for k in range(_FLIPPED):
            weakest[k, start : start + len(bits)] = bits[rows, (rank == k + 1).argmax(1)]
    return weakest


def _matches(probes: NDArray[np.uint32], bucket: _Bucket, queries: Hashes, others: Hashes) -> tuple[Places, int]:
    """-> query * len(others) + other of what is near, and how many probes met too many."""
    first = bucket.starts[probes]
    count = bucket.starts[probes + np.uint32(1)] - first
    left_out = int((count > _MOST_ALIKE).sum())
    count = np.minimum(count, _MOST_ALIKE)
    ends, parts, start = np.cumsum(count), [], 0
    while start < len(probes):
        before = ends[start - 1] if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _AT_ONCE, "right")))
        counts = count[start:stop]
        query = np.repeat(np.arange(start, stop), counts)
        within = np.arange(len(query)) - np.repeat(np.cumsum(counts) - counts, counts)
        other = bucket.order[np.repeat(first[start:stop], counts) + within]
        near = _ones(queries[query] ^ others[other]) <= MOST_BITS
        parts.append(query[near] * len(others) + other[near])
        start = stop
    return np.concatenate(parts) if parts else np.empty(0, np.int64), left_out


_ONES = np.array([number.bit_count() for number in range(1 << 16)], np.uint8)


def _ones(values: Hashes) -> NDArray[np.uint8]:
    """Bits that are set (numpy before 2.0 does not count them)."""
    counts: NDArray[np.uint8] = _ONES[values.view(np.uint16).reshape(-1, 4)].sum(1, dtype=np.uint8)
    return counts
