"""Side files of columns: killed, divided and merged, nothing lost, nothing of another set taken."""

import json
import os
from dataclasses import dataclass

import pytest

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, joined, made_folder
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.lock import HeldError
from editcaption_mega.settings import SettingsError
from tests.helpers.curate import curate
from tests.helpers.pool import write_pool


@dataclass
class Pairs:
    ids: list[str]
    fingerprint: str = "f" * 64


PAIRS = Pairs([f"p{i}" for i in range(7)])


def work(path, **options):
    return ColumnWork(path, options.pop("pairs", PAIRS), "score", options.pop("settings", {"model": "m"}), **options)


def make_all(path, **options):
    with work(path, **options) as making:
        for at, sample in making.missing():
            making.keep(at, {"value": at * 10 + sample}, sample=sample)
        return making.merge()


def test_a_whole_file_has_one_line_per_pair_in_the_order_of_the_shards(tmp_path):
    path = tmp_path / "score.jsonl"
    with work(path) as making:
        for at, _ in reversed(list(making.missing())):
            making.keep(at, {"value": at})
        assert making.merge()
    rows = list(ColumnFile(path, PAIRS))
    assert rows == [[{"id": f"p{i}", "value": i}] for i in range(7)]


@pytest.mark.parametrize(
    "torn", [b"", b'{"at": 6, "sample": 0', b"\x00\xff\n", b'{"at": 99, "sample": 0, "again": false}\n']
)
def test_a_killed_run_goes_on_and_makes_nothing_twice(tmp_path, torn):
    path = tmp_path / "score.jsonl"
    with work(path) as making:
        for at in (1, 4):
            making.keep(at, {"value": "first"})
        assert not making.merge() and not path.exists()
    with open(made_folder(path) / "all" / "lines.jsonl", "ab") as file:
        file.write(torn)
    with work(path) as making:
        assert making.missing_count == 5
        assert [at for at in range(7) if not making.lacks(at)] == [1, 4]
        assert [at for at, _ in making.missing()] == [0, 2, 3, 5, 6]
        for at, _ in making.missing():
            making.keep(at, {"value": "second"})
        assert making.merge()
    values = [row["value"] for (row,) in ColumnFile(path, PAIRS)]
    assert values == ["second", "first", "second", "second", "first", "second", "second"]


def test_a_merge_takes_lines_as_they_were_kept_and_those_of_another_form(tmp_path):
    path = tmp_path / "score.jsonl"
    rows = [
        {"id": f"p{at}", "value": value}
        for at, value in enumerate(['"row": {', "é\u2028\\", {"a": {}}, 1.5, None, [], ""])
    ]
    with work(path) as making:
        for at, row in enumerate(rows[:-1]):
            making.keep(at, {"value": row["value"]})
        with open(making.part_folder / "lines.jsonl", "a") as file:
            file.write(json.dumps({"row": rows[-1], "again": False, "sample": 0, "at": 6}, indent=None) + "\n")
        assert making.merge()
    assert [row for (row,) in ColumnFile(path, PAIRS)] == rows
    assert path.read_bytes().splitlines()[1:] == [json.dumps(row, ensure_ascii=False).encode() for row in rows]


def test_parts_may_be_divided_otherwise_the_next_time_and_the_last_one_merges(tmp_path):
    path = tmp_path / "score.jsonl"
    with work(path, part=Part(1, 3)) as making:
        assert [at for at, _ in making.missing()] == [1, 4]
        making.keep(4, {"value": 4})
    assert not make_all(path, part=Part(0, 2))
    with work(path, part=Part(1, 2)) as making:
        assert [at for at, _ in making.missing()] == [1, 3, 5], "pair 4 was made by part 0 of 2"
    assert make_all(path, part=Part(1, 2))
    assert [row["id"] for (row,) in ColumnFile(path, PAIRS)] == PAIRS.ids


def test_a_line_that_says_why_there_is_none_is_made_again_and_kept_if_it_fails_again(tmp_path):
    path = tmp_path / "score.jsonl"
    with work(path) as making:
        for at, _ in making.missing():
            making.keep(at, {"reason": "timeout"} if at == 2 else {"value": at}, again=at == 2)
        assert making.merge(), "a set with reasons is whole: they are told"
    with work(path) as making:
        assert list(making.missing()) == [(2, 0)]
        making.keep(2, {"value": "now"})
        assert making.merge()
    assert [row.get("value") for (row,) in ColumnFile(path, PAIRS)][2] == "now"


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_no_reader_would_take_back_is_not_kept(tmp_path, value):
    with work(tmp_path / "score.jsonl") as making:
        with pytest.raises(ValueError, match="not JSON compliant"):
            making.keep(0, {"value": value})
        assert (made_folder(tmp_path / "score.jsonl") / "all/lines.jsonl").read_bytes() == b""


def test_samples_of_a_pair_stand_together(tmp_path):
    path = tmp_path / "score.jsonl"
    assert make_all(path, samples=3)
    rows = list(ColumnFile(path, PAIRS))
    assert [row["sample"] for row in rows[5]] == [0, 1, 2] and {row["id"] for row in rows[5]} == {"p5"}
    other = tmp_path / "other.jsonl"
    assert make_all(other)
    assert [(at, len(a), len(b)) for at, (a, b) in joined(PAIRS, [ColumnFile(path), ColumnFile(other)])] == [
        (i, 3, 1) for i in range(7)
    ]


def test_other_settings_and_other_shards_are_refused_by_name(tmp_path):
    path = tmp_path / "score.jsonl"
    make_all(path)
    with pytest.raises(SettingsError, match=r"score.made holds lines made otherwise \(model differ\)"):
        work(path, settings={"model": "n"})
    with pytest.raises(SettingsError, match=r"\(samples differ\)"):
        work(path, samples=2)
    with pytest.raises(ValueError, match=r"about another set of shards \(fingerprint f+, these have e+\)"):
        ColumnFile(path, Pairs(PAIRS.ids, "e" * 64))
    with pytest.raises(SettingsError, match=r"give .*score.jsonl"):
        work(tmp_path / "score")


def test_one_part_is_made_by_one_process(tmp_path):
    path = tmp_path / "score.jsonl"
    with work(path), pytest.raises(HeldError, match="in use: making score"), work(path):
        pass
    with work(path, part=Part(0, 2)), work(path, part=Part(1, 2)):
        pass


def test_a_file_that_is_cut_changed_or_none_is_refused(tmp_path):
    path = tmp_path / "score.jsonl"
    make_all(path)
    lines = path.read_text().splitlines(keepends=True)
    path.write_text("".join(lines[:4]))
    with pytest.raises(ValueError, match=r"score.jsonl ends before pair p3: it was cut"):
        list(joined(PAIRS, [ColumnFile(path, PAIRS)]))
    with pytest.raises(ValueError, match=r"score.jsonl ends before pair p3: it was cut"):
        list(ColumnFile(path, PAIRS))
    path.write_text("".join([*lines, lines[-1]]))
    with pytest.raises(ValueError, match=r"line 9: the last pair is before it"):
        list(joined(PAIRS, [ColumnFile(path, PAIRS)]))
    path.write_text("".join([*lines[:3], lines[3][:-9] + "\n", *lines[4:]]))
    with pytest.raises(ValueError, match=r"score.jsonl, line 4: not valid JSON .*the file was changed or cut"):
        list(ColumnFile(path))
    path.write_text("".join([lines[0], lines[2], lines[1]]))
    with pytest.raises(ValueError, match=r"line 2: expected 1 lines of pair p0, found p1"):
        list(ColumnFile(path, PAIRS))
    path.write_text(json.dumps({"id": "p0"}) + "\n")
    with pytest.raises(ValueError, match="is no file of columns"):
        ColumnFile(path)
    with pytest.raises(ValueError, match="is a folder: expected a file of columns"):
        ColumnFile(tmp_path)
    os.remove(path)
    with pytest.raises(ValueError, match=r"does not exist: .*score.made is there, so run its step again to its end"):
        ColumnFile(path)


@pytest.mark.parametrize(
    "words",
    [
        ["lint", "--shards", "{pool}"],
        ["measure", "--shards", "{pool}", "--workers", "1"],
        ["score", "agreement", "--shards", "{pool}", "--captions", "{captions}"],
        ["alternatives", "--shards", "{pool}", "--captions", "{captions}"],
        ["best-of", "--shards", "{pool}", "--captions", "{captions}", "--scores", "{captions}", "--by", "length"],
    ],
    ids=lambda words: words[0],
)
def test_a_step_makes_the_folder_of_the_columns_that_it_writes(tmp_path, words):
    pool = write_pool(tmp_path / "pool", 2, instruction="Add a red cup to the left of the plate")
    captions = tmp_path / "captions.jsonl"
    with ColumnWork(captions, pool, "caption", {}, samples=2) as making:
        for at, sample in making.missing():
            making.keep(at, {"instruction": f"Move the cup {sample} to the left", "length": sample}, sample=sample)
        assert making.merge()
    output = tmp_path / "runs" / "new" / "columns.jsonl"
    given = [word.format(pool=tmp_path / "pool", captions=captions) for word in words]
    assert curate(*given, "--output", output) == 0
    assert len(list(ColumnFile(output, pool))) == 2


@pytest.mark.parametrize("step", ["lint", "measure"])
def test_columns_in_a_folder_that_cannot_be_made_are_refused_before_work(tmp_path, capsys, step):
    write_pool(tmp_path / "pool", 2, instruction="Add a red cup")
    (tmp_path / "file").touch()
    output = tmp_path / "file" / "new" / "columns.jsonl"
    assert curate(step, "--shards", tmp_path / "pool", "--output", output) == 2
    assert f"--output {output}: {tmp_path / 'file'} is no folder: make it" in capsys.readouterr().err
