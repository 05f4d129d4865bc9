import numpy as np
import pytest
from hypothesis import given, settings, strategies

from editcaption_mega.data.shards.text_arrays import Texts, repeated

some = strategies.lists(strategies.text(max_size=5), min_size=1, max_size=20)


@settings(max_examples=60, deadline=None)
@given(some, some, strategies.text(max_size=3), strategies.randoms())
def test_they_are_what_a_list_would_be(first, second, prefix, random):
    one, two = Texts.of(first), Texts.of(second)
    assert list(one) == first == [one[i] for i in range(len(one))] and one[-1] == first[-1]
    assert one.sizes.tolist() == [len(text.encode()) for text in first]
    assert list(Texts.joined([one, two])) == first + second
    assert list(two.with_prefix(prefix)) == [prefix + text for text in second]
    rows = [random.randrange(len(first)) for _ in range(random.randrange(9))]
    assert list(one.take(np.array(rows, np.int64))) == [first[row] for row in rows]


@settings(max_examples=60, deadline=None)
@given(some)
def test_the_same_texts_have_the_same_hashes_and_others_others(texts):
    hashes = Texts.of(texts).hashes().tolist()
    assert len(set(hashes)) == len(set(texts))
    longer = Texts.of(["x" * 300, *texts]).hashes().tolist()[1:]  # whatever else stands among them
    assert hashes == longer


def test_many_are_read_in_pieces(monkeypatch):
    monkeypatch.setattr("editcaption_mega.data.shards.text_arrays._ROWS_AT_ONCE", 3)
    texts = [f"{'z' * (i % 4)}{i}" for i in range(20)]
    assert list(Texts.of(texts)) == texts
    assert Texts.of(texts).hashes().tolist() == [int(Texts.of([text]).hashes()[0]) for text in texts]


@pytest.mark.parametrize(
    "texts, rows", [(["a", "b", "c"], None), (["a", "b", "b", "a"], (0, 3)), (["", "a", ""], (0, 2))]
)
def test_a_text_that_occurs_twice(texts, rows):
    assert repeated(Texts.of(list(texts))) == rows
