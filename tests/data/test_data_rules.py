"""Rules on the data that the evaluation stands on (D rows; D3, the mirror test, is in test_judge_check.py)."""

from collections import Counter

import pytest

from editcaption_mega.data.importers import FORMATS, ImportOptions, Rejected
from editcaption_mega.data.importers.ingest import ingest
from editcaption_mega.data.importers.quota import quota_lines
from editcaption_mega.data.synthetic import CATEGORY_OF, WorldSettings, edit_type_at
from editcaption_mega.records import EditPair, RecordError

PAIR = {"id": "p", "category": "semantic", "edit_type": "add", "chosen": "Add a hat", "rejected": "Add a cap"}


def test_D1_the_synthetic_world_holds_the_quota_in_every_four_pairs():
    """25 / 25 / 50 % semantic, stylistic, structural."""
    for seed in range(5):
        for block in range(0, 40, 4):
            found = Counter(CATEGORY_OF[edit_type_at(WorldSettings(), seed, i)] for i in range(block, block + 4))
            assert found == {"semantic": 1, "stylistic": 1, "structural": 2}


def test_D1_shards_say_their_quota_and_how_many_rows_were_dropped_for_which_reason(tmp_path):
    world = FORMATS["synthetic"].read("default", ImportOptions(count=8, seed=1))
    rows = [
        *world,
        Rejected(9, "x", "source image 'a.png' not found"),
        Rejected(10, "y", "source image 'b.png' not found"),
    ]
    report = ingest(rows, tmp_path / "set")
    assert quota_lines(report.categories) == [
        "semantic: 2 pairs, 25.0% (paper: 25%)",
        "stylistic: 2 pairs, 25.0% (paper: 25%)",
        "structural: 4 pairs, 50.0% (paper: 50%)",
    ]
    assert report.rejected_share == 0.2 and list(report.reasons.values()) == [2]


@pytest.mark.parametrize(
    ("counts", "most"),
    [
        ((1, 0, 0), None),  # nothing can be drawn
        ((0, 0, 40), None),
        ((3_000, 2_999, 6_000), None),  # 11,996 of 11,999
        ((2, 1, 1), None),
        ((30, 10, 60), 40),
        ((4_000, 3_000, 5_000), 10_000),
    ],
)
def test_D1_drawing_by_the_paper_s_shares_is_advised_where_it_helps(counts, most):
    lines = quota_lines(dict(zip(("semantic", "stylistic", "structural"), counts, strict=True)))
    advice = [line for line in lines if line.startswith("in the paper's shares")]
    assert len(lines) - len(advice) == 3
    assert [line.split(" ")[4] for line in advice] == ([] if most is None else [f"{most:,}"])


def test_D2_a_preference_has_two_different_answers_to_one_pair():
    """One record holds both, so they share their pictures. That the rejected one came from the recorded checkpoint, and
    its failure modes, is what tests/curation/test_preference_pairs.py checks."""
    assert EditPair.from_json(PAIR | {"failure_modes": ["detail"]}).failure_modes == ["detail"]
    with pytest.raises(RecordError, match="the same text"):
        EditPair.from_json(PAIR | {"rejected": PAIR["chosen"]})
    with pytest.raises(RecordError, match="come together"):
        EditPair.from_json({name: PAIR[name] for name in PAIR if name != "rejected"})
    with pytest.raises(RecordError, match="failure_modes"):
        EditPair.from_json(PAIR | {"failure_modes": ["colour"]})
