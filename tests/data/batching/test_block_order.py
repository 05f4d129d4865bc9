import pytest
from hypothesis import given, settings, strategies

from editcaption_mega.data.batching.block_order import BLOCKS_AT_ONCE, BlockOrder, order_of
from editcaption_mega.data.batching.order import SampleOrder

VALUES = [957, 669, 762, 707, 910, 943]


@settings(max_examples=150, deadline=None)
@given(strategies.integers(1, 700), strategies.integers(1, 40), strategies.integers(0, 2**64 - 1))
def test_each_epoch_has_each_sample_once(size, block, seed):
    order = BlockOrder(size, seed, block=block)
    for epoch in range(3):
        assert sorted(order.at(epoch * size + k) for k in range(size)) == list(range(size))


@pytest.mark.parametrize("size", [1000, 1003, 1600])
def test_what_is_read_within_a_while_lies_in_few_blocks(size):
    order = BlockOrder(size, 3, block=10)
    taken = [order.at(position) for position in range(2 * size)]
    window = 10 * BLOCKS_AT_ONCE
    for first in range(0, size - window, 7):
        assert len({sample // 10 for sample in taken[first : first + window]}) <= 2 * BLOCKS_AT_ONCE
    assert taken[:size] != taken[size:], "another order in each epoch"
    neighbors = sum(abs(a - b) == 1 for a, b in zip(taken, taken[1:], strict=False))
    assert neighbors < 0.05 * size, "no block is read as it stands"


def test_values_never_change():
    """Runs resume by them."""
    assert [BlockOrder(1003, 5, block=10).at(position) for position in (0, 1, 160, 999, 1003, 10**6)] == VALUES


def test_any_position_alone_is_as_in_a_row():
    order = BlockOrder(333, 8, block=7)
    in_a_row = [order.at(position) for position in range(999)]
    assert [BlockOrder(333, 8, block=7).at(position) for position in range(998, -1, -1)] == in_a_row[::-1]


def test_without_blocks_all_are_shuffled_as_one():
    whole = SampleOrder(50, 4)
    assert [order_of(50, 4).at(k) for k in range(60)] == [whole.at(k) for k in range(60)]
    assert [order_of(50, 4, shuffle=False, block=5).at(k) for k in range(60)] == [*range(50), *range(10)]


@pytest.mark.parametrize("block, message", [(0, "blocks of 1 sample or more, found 0"), (-3, "found -3")])
def test_a_block_of_nothing(block, message):
    with pytest.raises(ValueError, match=message):
        BlockOrder(5, block=block)
    with pytest.raises(ValueError, match="position is -1"):
        BlockOrder(5, block=2).at(-1)
