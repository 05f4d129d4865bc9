from collections import Counter

import numpy as np
import pytest

from editcaption_mega.data import SampleOrder


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5, 7, 16, 17, 46, 255, 256, 257, 1000, 4097])
def test_each_epoch_is_a_strict_permutation(size):
    order = SampleOrder(size, seed=3)
    for epoch in (0, 1, 5):
        assert sorted(order.at(epoch * size + i) for i in range(size)) == list(range(size))


def test_epochs_and_seeds_differ():
    def epoch(seed, number, size=46):
        order = SampleOrder(size, seed)
        return tuple(order.at(number * size + i) for i in range(size))

    assert len({epoch(seed, number) for seed in (-1, 0, 1, 2**80) for number in range(20)}) == 80


def test_it_is_a_pure_function_of_seed_and_position():
    order = SampleOrder(1000, 7)
    forward = [order.at(i) for i in range(3000)]
    assert [SampleOrder(1000, 7).at(i) for i in reversed(range(3000))] == forward[::-1]
    # Written down once: a change here would break the resume of every run that is under way.
    assert [SampleOrder(10, 0).at(i) for i in range(20)] == GOLDEN
    assert SampleOrder(10**12, 1).at(10**15 + 5) == GOLDEN_LARGE


GOLDEN = [3, 4, 0, 6, 9, 2, 7, 1, 8, 5, 0, 8, 6, 4, 5, 2, 3, 1, 7, 9]
GOLDEN_LARGE = 693402961005


def test_every_permutation_of_a_small_set_is_as_likely():
    order, epochs = SampleOrder(4, 11), 4800
    counts = Counter(tuple(order.at(4 * epoch + i) for i in range(4)) for epoch in range(epochs))
    assert len(counts) == 24
    expected = epochs / 24
    assert sum((count - expected) ** 2 / expected for count in counts.values()) < 60  # chi2(23): p < 5e-5


def test_neighbours_are_scattered():
    order = SampleOrder(2000, 0)
    values = np.array([order.at(i) for i in range(2000)])
    assert abs(np.corrcoef(values[:-1], values[1:])[0, 1]) < 0.1
    assert abs(np.corrcoef(values, np.arange(2000))[0, 1]) < 0.1


def test_without_shuffle_it_is_the_identity():
    order = SampleOrder(5, 1, shuffle=False)
    assert [order.at(i) for i in range(12)] == [0, 1, 2, 3, 4, 0, 1, 2, 3, 4, 0, 1]
    assert order.epoch(11) == 2


def test_numpy_integers_are_taken():
    assert SampleOrder(np.int64(10), np.int32(0)).at(np.int64(3)) == SampleOrder(10, 0).at(3)


@pytest.mark.parametrize("size", [0, -1, 2**62 + 1])
def test_bad_sizes(size):
    with pytest.raises(ValueError, match="size is"):
        SampleOrder(size, 0)


def test_bad_values():
    with pytest.raises(ValueError, match="takes integers"):
        SampleOrder(2.5, 0)
    with pytest.raises(ValueError, match="takes integers"):
        SampleOrder(5, "a")
    with pytest.raises(ValueError, match="position is -1"):
        SampleOrder(5, 0).at(-1)
