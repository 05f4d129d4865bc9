"""Pairs that look alike: the same are told as by comparing each with all before, and hardly a row is read for it."""

from itertools import product

import numpy as np
import pytest

from editcaption_mega.data.images import look_alikes
from editcaption_mega.data.images.look_alikes import SIDE, LookAlikes
from editcaption_mega.data.scratch import open_scratch

SIZE, OTHER = ((64, 48), (64, 48)), ((32, 24), (64, 48))
TEXTS = b"one text", b"another."
VALUES = SIDE * SIDE * 3


class EachWithAll:
    """What `LookAlikes` does, without a database."""

    def __init__(self):
        self.pairs = {}

    def keep(self, identity, sizes, thumbnails, texts):
        look = tuple(int(value) // 24 for value in coarse(thumbnails))
        if len(self.pairs.setdefault(look, [])) < 64:
            self.pairs[look].append((identity, sizes, np.frombuffer(thumbnails, np.uint8).astype(int), texts))

    def find(self, sizes, thumbnails, texts):
        values, alike = np.frombuffer(thumbnails, np.uint8).astype(int), []
        near = [{max(0, int(value + by) // 24) for by in (-2, 2)} for value in coarse(thumbnails)]
        for look in sorted(product(*near)):
            for identity, its_sizes, its_values, its_texts in self.pairs.get(look, []):
                if abs(its_values - values).max() <= (3 if its_sizes == sizes else 6):
                    alike.append((identity, its_texts == texts))
        return next((other for other in alike if other[1]), alike[0] if alike else None)


def coarse(thumbnails):
    pixels = np.frombuffer(thumbnails, np.uint8).reshape(2, 2, 4, 2, 4, 3).mean((2, 4))
    return [*pixels[..., 0].flatten(), *pixels[0, ..., 1:].mean((0, 1))]


def drawn(random, before):
    """A pair: another, one before with some noise or swapped, or a plain one."""
    kind = random.integers(6)
    if kind < 3 and before:
        values = before[random.integers(len(before))].astype(int)
        values = np.roll(values, VALUES) if kind == 2 else values
        most = random.choice([1, 3, 4, 6, 7])
        noise = random.integers(-most, most + 1, 2 * VALUES) * (random.random(2 * VALUES) < random.choice([0.02, 1]))
        return np.clip(values + noise, 0, 255).astype(np.uint8)
    if kind == 3:
        return np.full(2 * VALUES, random.choice([0, 3, 128, 255]), np.uint8) + random.integers(0, 2, dtype=np.uint8)
    smooth = random.integers(0, 256, (2, 2, 1, 2, 1, 3)) // (1 if kind == 4 else 3)
    return (smooth * np.ones((2, 2, 4, 2, 4, 3))).flatten().astype(np.uint8)


@pytest.mark.parametrize("seed", range(4))
def test_the_same_pairs_are_told_as_by_comparing_each_with_all(seed):
    random = np.random.default_rng(seed)
    quick, plain, before, told = LookAlikes(open_scratch()), EachWithAll(), [], 0
    for number in range(1500):
        values = drawn(random, before)
        before.append(values)
        sizes, texts = (SIZE, OTHER)[random.integers(2)], TEXTS[random.integers(2)]
        for side in (values, np.roll(values, VALUES)):
            expected = plain.find(sizes, side.tobytes(), texts)
            assert quick.find(sizes, side.tobytes(), texts) == expected
            told += expected is not None
        for each in (quick, plain):
            each.keep(str(number), sizes, values.tobytes(), texts)
    assert 500 < told < 2500 and max(map(len, plain.pairs.values())) == 64


@pytest.mark.parametrize("place", look_alikes._PLACES)
@pytest.mark.parametrize("by, alike", [(6, True), (-6, True), (7, False), (-7, False)])
def test_a_value_in_the_index_may_differ_as_any_other(place, by, alike):
    pairs = LookAlikes(open_scratch())
    values = np.full(2 * VALUES, 132, np.uint8)
    pairs.keep("a", SIZE, values.tobytes(), TEXTS[0])
    values[3 * place] = 132 + by
    assert pairs.find(OTHER, values.tobytes(), TEXTS[0]) == (("a", True) if alike else None)


def test_rows_of_others_are_not_read():
    database = open_scratch()
    pairs, statements = LookAlikes(database), []
    random = np.random.default_rng(0)
    values = random.integers(0, 256, 2 * VALUES, dtype=np.uint8).tobytes()
    database.set_trace_callback(statements.append)
    assert pairs.find(SIZE, values, TEXTS[0]) is None
    plan = [step for *_, step in database.execute("EXPLAIN QUERY PLAN " + statements[-1])]
    assert plan[0] == "SEARCH pairs USING INDEX by_look (look=? AND place_0>? AND place_0<?)"
    compared = {place for place in range(1, len(look_alikes._PLACES)) if f"place_{place} BETWEEN" in statements[0]}
    assert compared == {1, 2, 3}
