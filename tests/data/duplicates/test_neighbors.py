"""What is near is found without comparing all with all, as comparing all with all finds it."""

import numpy as np

from editcaption_mega.data.duplicates.look_hashes import BITS, LookHashes
from editcaption_mega.data.duplicates.neighbors import MOST_BITS, distinct, neighbors


def test_hashes_that_differ_in_weak_bits_are_found():
    rng = np.random.default_rng(0)
    bits = rng.integers(0, 1 << 63, 5000, np.int64).astype(np.uint64)
    order = np.argsort(rng.random((5000, BITS)), axis=1).astype(np.uint8)
    flips = np.zeros(5000, np.uint64)
    for k in range(6):  # the weakest bits of all
        flips |= (np.uint64(1) << order[:, k].astype(np.uint64)) * (rng.random(5000) < 0.5).astype(np.uint64)
    near = neighbors(LookHashes(bits, order), bits ^ flips)
    pairs = set(zip(near.query.tolist(), near.other.tolist(), strict=True))
    assert {(k, k) for k in range(5000)} <= pairs
    differing = np.array([int(x).bit_count() for x in bits[near.query] ^ (bits ^ flips)[near.other]])
    assert differing.max() <= MOST_BITS
    assert len(pairs) == len(near.query)  # each once


def test_distinct_is_sorted_and_once():
    assert distinct(np.array([5, 1, 5, 3, 1])).tolist() == [1, 3, 5]
    assert distinct(np.empty(0, np.int64)).tolist() == []
