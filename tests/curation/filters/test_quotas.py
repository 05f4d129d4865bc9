import numpy as np
import pytest

from editcaption_mega.curation.filters.quotas import drawn, parse_quotas, quota_counts
from editcaption_mega.settings import SettingsError

PAPER = {"semantic": 0.25, "stylistic": 0.25, "structural": 0.5}


def test_shares_are_read_and_sum_to_one():
    assert parse_quotas("semantic=25, stylistic=25,structural=50") == PAPER and parse_quotas("") == {}
    assert parse_quotas("semantic=1,structural=1") == {"semantic": 0.5, "structural": 0.5}
    for text in (
        "semantic",
        "semantic=x",
        "other=1",
        "semantic=-1",
        "semantic=1,semantic=2",
        "semantic=0",
        "semantic=inf",
    ):
        with pytest.raises(SettingsError):
            parse_quotas(text)


def test_the_scarcest_category_says_how_many_stay():
    assert quota_counts({"semantic": 30, "stylistic": 100, "structural": 100}, PAPER) == {
        "semantic": 30, "stylistic": 30, "structural": 60,
    }  # fmt: skip
    assert quota_counts({"semantic": 30, "stylistic": 100, "structural": 41}, PAPER) == {
        "semantic": 21, "stylistic": 20, "structural": 41,
    }  # fmt: skip
    assert (
        sum(quota_counts({"semantic": 3, "stylistic": 3, "structural": 3}, dict.fromkeys(PAPER, 1 / 3)).values()) == 9
    )
    assert sum(quota_counts({"semantic": 9, "stylistic": 9, "structural": 9}, PAPER, 10).values()) == 10
    with pytest.raises(ValueError, match="100 pairs with these quotas need 50 of structural, and 41 are left"):
        quota_counts({"semantic": 30, "stylistic": 100, "structural": 41}, PAPER, 100)


def test_what_is_drawn_depends_on_ids_and_seed_alone():
    ids = [f"p{i}" for i in range(200)]
    places = np.arange(0, 200, 2)
    first = drawn(ids, places, 30, 0)
    assert (np.diff(first) > 0).all() and set(first) <= set(places) and len(first) == 30
    assert (drawn(ids, places, 30, 0) == first).all() and set(drawn(ids, places, 30, 1)) != set(first)
    more = drawn(ids[::-1], 199 - places[::-1], 30, 0)
    assert {ids[::-1][at] for at in more} == {ids[at] for at in first}
    assert (drawn(ids, places, 500, 0) == places).all()
