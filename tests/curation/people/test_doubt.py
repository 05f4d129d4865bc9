"""Doubtful pairs first: ranks of columns, whatever their scales."""

import pytest

from editcaption_mega.curation.people.doubt import Hardness, Screen, doubt_of
from tests.curation.test_columns import Pairs
from tests.helpers.people_tasks import write_columns

PAIRS = Pairs([f"p{i}" for i in range(4)])


@pytest.fixture
def path(tmp_path):
    rows = [
        {"agreement": 0.9, "lint": [], "mirror": True, "odd": None},
        {"agreement": 0.1, "lint": ["vague", "left_right"], "mirror": False},
        {"agreement": 0.5, "lint": ["vague"], "mirror": True},
        {"reason": "no text"},
    ]
    return write_columns(tmp_path / "c.jsonl", PAIRS, rows, "score")


def doubt(path, *columns):
    return doubt_of(PAIRS, [Screen.parse(f"{path}:{column}", PAIRS) for column in columns]).tolist()


def test_one_column_orders_by_its_bad_end(path):
    assert doubt(path, "agreement") == [0.0, 1.0, 0.5, 0.5]  # a pair without a value stands in the middle
    assert doubt(path, "agreement:high") == [1.0, 0.0, 0.5, 0.5]
    assert doubt(path, "lint") == [0.0, 1.0, 0.5, 0.5]  # many findings are bad
    assert doubt(path, "mirror") == [0.25, 1.0, 0.25, 0.5]  # equal values share a rank


def test_several_columns_are_the_mean_of_their_ranks(path):
    assert doubt(path, "agreement", "mirror") == [0.125, 1.0, 0.375, 0.5]
    assert doubt(path) == [0.0, 0.0, 0.0, 0.0]


def test_hard_pairs_are_those_where_the_model_prefers_its_own_text(tmp_path):
    texts = write_columns(tmp_path / "t.jsonl", PAIRS, [{"log_prob": x} for x in (-9.0, -3.0, -5.0, None)], "score")
    own = write_columns(tmp_path / "o.jsonl", PAIRS, [{"log_prob": x} for x in (-4.0, -6.0, -5.0, -1.0)], "score")
    hardness = Hardness(*(Screen.parse(f"{path}:log_prob", PAIRS) for path in (texts, own)))
    assert list(hardness.values(PAIRS)) == [-5.0, 3.0, 0.0, None]
    assert doubt_of(PAIRS, [hardness]).tolist() == [0.0, 1.0, 0.5, 0.5]


@pytest.mark.parametrize(
    ("argument", "message"),
    [("{}:nothing", "has no column 'nothing'"), ("{}", "names no column"), ("{}x:agreement", "does not exist")],
)
def test_what_is_no_column_is_refused(path, argument, message):
    with pytest.raises(ValueError, match=message):
        doubt_of(PAIRS, [Screen.parse(argument.format(path), PAIRS)])
