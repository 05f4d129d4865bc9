"""Rows as files: whole or not at all, and every line that cannot be read is told."""

import pytest

from editcaption_mega.evaluation.record_files import read_records, write_records
from editcaption_mega.records import Instruction, Judgement

WHO = {"benchmark": "b", "model": "m", "judge": "j"}
ROWS = [
    Judgement(**WHO, id="p1", scores={"accuracy": 5, "completeness": 4.5, "clarity": 3.7}, hits=["p1"]),
    Judgement(**WHO, id="p2", unscored=dict.fromkeys(("accuracy", "completeness", "clarity"), "refused: n\u2028ö")),
]


def test_rows_come_back(tmp_path):
    write_records(tmp_path / "a/rows.jsonl", ROWS)
    assert read_records(tmp_path / "a/rows.jsonl", Judgement) == ROWS
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["rows.jsonl"]


def test_a_write_that_fails_leaves_the_old_file(tmp_path):
    write_records(tmp_path / "rows.jsonl", ROWS[:1])
    with pytest.raises(ZeroDivisionError):
        write_records(tmp_path / "rows.jsonl", (ROWS[i // (i - 1)] for i in range(3)))
    assert read_records(tmp_path / "rows.jsonl", Judgement) == ROWS[:1]


@pytest.mark.parametrize(
    "text, told",
    [
        ("{}\n", "rows.jsonl, line 1: field 'benchmark' is missing"),
        ("[]\n", "rows.jsonl, line 1: expected a JSON object, found list"),
        ("{\n", "rows.jsonl, line 1: expected one JSON object"),
        ("\n", "rows.jsonl, line 1: expected one JSON object"),
        ("\udcff\n", "rows.jsonl, line 1: expected one JSON object"),
        (None, "rows.jsonl does not exist: expected a file with one Instruction per line"),
    ],
)
def test_rows_that_cannot_be_read_are_told(tmp_path, text, told):
    if text is not None:
        (tmp_path / "rows.jsonl").write_bytes(text.encode("utf-8", "surrogateescape"))
    with pytest.raises(ValueError) as error:
        read_records(tmp_path / "rows.jsonl", Instruction)
    assert told in str(error.value)
