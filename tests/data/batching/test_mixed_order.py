"""Sets mixed by weights: exact proportions at every prefix, strict epochs of each set, a pure function."""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import settings as bounded
from hypothesis import strategies as st

from editcaption_mega.data.batching.mixed_order import MixedOrder

# (size, share) of one to seven sets, and a seed.
mixtures = st.lists(st.tuples(st.integers(1, 30), st.integers(1, 40)), min_size=1, max_size=7)
seeds = st.integers(-(2**40), 2**40)
GOLDEN = [3, 6, 1, 8, 2, 7, 0, 5, 4, 9, 3, 7, 4, 9, 2, 5, 1, 6, 0, 8]
GOLDEN_LARGE = 8


def mixed(sets, seed=0, **options) -> MixedOrder:
    sizes, shares = zip(*sets, strict=True)
    return MixedOrder(sizes, shares, seed, **options)


def set_of(order: MixedOrder, sample: int) -> int:
    """By counting, without the order's own tables."""
    for k, size in enumerate(order.sizes):
        if sample < size:
            return k
        sample -= size
    raise AssertionError("a sample that no set has")


@bounded(max_examples=150, deadline=None)
@given(mixtures, seeds)
def test_every_prefix_has_each_share_to_within_one_sample(sets, seed):
    order, total = mixed(sets, seed), sum(share for _, share in sets)
    counts = [0] * len(sets)
    for position in range(2 * total + 3):
        counts[set_of(order, order.at(position))] += 1
        for count, (_, share) in zip(counts, sets, strict=True):
            # |count - share / total * length| < 1, in whole numbers
            assert abs(count * total - share * (position + 1)) < total
        assert order.taken(position + 1) == counts
    assert order.taken(0) == [0] * len(sets) and order.taken(total) == [share for _, share in sets]


@bounded(max_examples=100, deadline=None)
@given(mixtures, seeds, st.booleans(), st.integers(1, 400))
def test_no_sample_comes_again_before_all_of_its_set_have_come_as_often(sets, seed, shuffle, length):
    order = mixed(sets, seed, shuffle=shuffle)
    seen: Counter[int] = Counter()
    first = 0
    ranges = []
    for size, _ in sets:
        ranges.append(range(first, first + size))
        first += size
    for position in range(length):
        sample = order.at(position)
        own = ranges[set_of(order, sample)]
        assert seen[sample] == min(seen[other] for other in own), "of its own set, none is behind it"
        seen[sample] += 1
    assert seen.total() == length


@bounded(max_examples=100, deadline=None)
@given(mixtures, seeds, st.integers(0, 10**9), st.integers(1, 50))
def test_it_goes_on_anywhere_with_one_integer(sets, seed, first, count):
    """Whatever was asked before, and however far it is: the sample of a position depends on nothing else."""
    expected = [mixed(sets, seed).at(first + k) for k in range(count)]
    again = mixed(sets, seed)
    assert [again.at(first + k) for k in reversed(range(count))] == expected[::-1]
    # Three data-parallel ranks that each look at every third sample see the same.
    ranks = [[mixed(sets, seed).at(first + k) for k in range(rank, count, 3)] for rank in range(3)]
    assert [ranks[k % 3][k // 3] for k in range(count)] == expected


def test_values_never_change():
    order = MixedOrder([5, 3, 2], [5, 3, 2], seed=7)
    assert [order.at(p) for p in range(20)] == GOLDEN
    assert order.at(10**15 + 3) == GOLDEN_LARGE


def test_each_epoch_of_a_set_has_another_order_and_sets_of_one_size_differ():
    order = MixedOrder([40, 40], [1, 1], seed=3)
    stream = [order.at(p) for p in range(160)]
    first, second = stream[0::2], [sample - 40 for sample in stream[1::2]]
    assert sorted(first[:40]) == sorted(first[40:]) == sorted(second[:40]) == list(range(40))
    assert len({tuple(part) for part in (first[:40], first[40:], second[:40], second[40:])}) == 4
    plain = MixedOrder([2, 2], [1, 1], seed=3, shuffle=False)
    assert [plain.at(p) for p in range(8)] == [0, 2, 1, 3, 0, 2, 1, 3]


@pytest.mark.parametrize("sizes, shares", [([], []), ([3], [1, 1]), ([3, 0], [1, 1]), ([3, 3], [1, 0])])
def test_sets_that_cannot_be_mixed(sizes, shares):
    with pytest.raises(ValueError, match="a size and a share for each set"):
        MixedOrder(sizes, shares)
    with pytest.raises(ValueError, match="0 or more"):
        MixedOrder([3], [1]).at(-1)
