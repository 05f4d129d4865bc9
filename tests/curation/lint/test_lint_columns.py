import json

import pytest

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, made_folder
from editcaption_mega.curation.lint.lint_columns import JsonlTexts, lint_pairs
from editcaption_mega.data.shards.reader import open_shards
from tests.helpers.curate import curate
from tests.helpers.small_pairs import write_pairs


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("lint") / "shards", [None] * 3)


def captions(path, pairs, texts):
    with ColumnWork(path, pairs, "caption", {}, samples=len(texts[0])) as work:
        for at, lines in enumerate(texts):
            for sample, text in enumerate(lines):
                work.keep(at, {"reason": "refused"} if text is None else {"instruction": text}, sample=sample)
        assert work.merge()
    return path


def test_the_set_s_own_instructions_are_linted_and_a_killed_run_goes_on(shards, tmp_path, capsys):
    output = tmp_path / "lint.jsonl"
    assert curate("lint", "--shards", shards, "--output", output) == 0
    assert "3 instructions of 3 pairs" in capsys.readouterr().out
    whole = output.read_bytes()
    assert [row["lint"] for (row,) in ColumnFile(output, open_shards(shards))] == [[], [], []]
    made = made_folder(output) / "all/lines.jsonl"
    made.write_bytes(made.read_bytes()[:-40])
    output.unlink()
    assert curate("lint", "--shards", shards, "--output", output) == 0
    assert output.read_bytes() == whole


def test_parts_are_linted_apart_and_merged_by_the_last(shards, tmp_path, capsys):
    whole, output = tmp_path / "whole.jsonl", tmp_path / "lint.jsonl"
    assert curate("lint", "--shards", shards, "--output", whole) == 0
    assert curate("lint", "--shards", shards, "--output", output, "--part", "0/2") == 0
    assert "part 0/2 is made" in capsys.readouterr().out and not output.exists()
    assert curate("lint", "--shards", shards, "--output", output, "--part", "1/2") == 0
    assert output.read_bytes() == whole.read_bytes()


def test_captions_are_linted_sample_by_sample_and_none_has_a_reason(shards, tmp_path):
    pairs = open_shards(shards)
    given = captions(
        tmp_path / "caption.jsonl", pairs, [["Add a cup.", "Make the sky red."], [None, "Move it."], ["把它变红", ""]]
    )
    counts = lint_pairs(pairs, tmp_path / "lint.jsonl", instructions=given)
    assert counts[""] == 5 and counts["bare_addition"] == 1 and counts["vague"] == 2
    rows = list(ColumnFile(tmp_path / "lint.jsonl", pairs))
    assert [[row.get("lint") for row in lines] for lines in rows] == [
        [["bare_addition"], []],
        [None, ["vague"]],
        [["vague"], []],
    ]
    assert rows[1][0]["reason"] == "no instruction" and "leaves open" in rows[1][1]["lint_messages"][0]


def test_the_mirrored_pairs_instructions_are_compared(shards, tmp_path):
    pairs = open_shards(shards)
    said = [["Move the cup to the left."], ["Move the cup to the left."], ["Make the cup red."]]
    other = [["Move the cup to the right."], ["Move the cup to the left."], ["Make the cup red."]]
    options = {
        "instructions": captions(tmp_path / "a.jsonl", pairs, said),
        "mirrored": captions(tmp_path / "b.jsonl", pairs, other),
    }
    assert lint_pairs(pairs, tmp_path / "lint.jsonl", **options)["mirror"] == 1
    assert [row["lint"] for (row,) in ColumnFile(tmp_path / "lint.jsonl", pairs)] == [[], ["mirror"], []]


def test_the_mirror_test_as_the_page_has_it(shards, tmp_path):
    """The flipped pairs are another set of shards, of the same ids."""
    mirrored = tmp_path / "mirrored"
    assert curate("mirror", "--shards", shards, "--output", mirrored) == 0
    pairs, flipped = open_shards(shards), open_shards(mirrored)
    assert pairs.ids == flipped.ids and pairs.fingerprint != flipped.fingerprint
    said = captions(tmp_path / "a.jsonl", pairs, [["Move the cup to the left."]] * 3)
    other = captions(tmp_path / "b.jsonl", flipped, [["Move the cup to the right."], ["Turn left."], ["Go left."]])
    options = ["lint", "--shards", shards, "--instructions", said, "--output", tmp_path / "lint.jsonl"]
    assert curate(*options, "--mirrored", other) == 0
    assert ["mirror" in row["lint"] for (row,) in ColumnFile(tmp_path / "lint.jsonl", pairs)] == [False, True, True]
    other.write_text("".join(other.read_text().splitlines(keepends=True)[:-1]))
    with pytest.raises(ValueError, match="b.jsonl: the end stands where pair .* was expected: flip these shards"):
        lint_pairs(pairs, tmp_path / "cut.jsonl", instructions=said, mirrored=other)


def test_a_file_without_instructions_is_no_success(shards, tmp_path, capsys):
    pairs = open_shards(shards)
    none = captions(tmp_path / "none.jsonl", pairs, [[None]] * 3)
    assert curate("lint", "--shards", shards, "--instructions", none, "--output", tmp_path / "lint.jsonl") == 1
    assert "no pair has an instruction in" in capsys.readouterr().err


def test_other_instructions_are_another_file(shards, tmp_path):
    pairs = open_shards(shards)
    lint_pairs(pairs, tmp_path / "lint.jsonl", instructions=captions(tmp_path / "a.jsonl", pairs, [["A."]] * 3))
    given = captions(tmp_path / "b.jsonl", pairs, [["B."]] * 3)
    with pytest.raises(ValueError, match=r"made otherwise \(instructions differ\)"):
        lint_pairs(pairs, tmp_path / "lint.jsonl", instructions=given)


def test_plain_jsonl_is_linted_and_bad_lines_are_named(tmp_path, capsys):
    path = tmp_path / "texts.jsonl"
    rows = [{"id": "a", "instruction": "Add a cup."}, {"id": "b"}, {"id": "c", "instruction": "把花瓶放大到15cm"}]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    assert curate("lint", "--jsonl", path, "--output", tmp_path / "lint.jsonl") == 0
    assert "2 instructions of 3 pairs" in capsys.readouterr().out
    found = [row.get("lint") for (row,) in ColumnFile(tmp_path / "lint.jsonl", JsonlTexts(path))]
    assert found == [["bare_addition"], None, ["measure"]]
    for line, words in [
        ("[1]", 'line 2: expected an object with "id"'),
        ("{", "line 2: not valid JSON"),
        ('{"id": "a"}', "'a' occurs twice"),
    ]:
        path.write_text(json.dumps(rows[0]) + "\n" + line + "\n")
        assert curate("lint", "--jsonl", path, "--output", tmp_path / "other.jsonl") == 2
        assert words in capsys.readouterr().err
    assert curate("lint", "--jsonl", path, "--shards", tmp_path, "--output", tmp_path / "x.jsonl") == 2
