import json
import os
import subprocess
import sys

import pytest

from editcaption_mega.cli import ArgumentError, argument_parser, exit_code
from editcaption_mega.data import open_shards
from editcaption_mega.progress_display import progress
from tests.helpers import ROOT


def tool(name, *arguments, cwd=None):
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    command = [sys.executable, str(ROOT / "tools" / name), *map(str, arguments)]
    return subprocess.run(command, capture_output=True, text=True, cwd=cwd, env=environment, timeout=120)


def one_error_line(done):
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and "Traceback" not in done.stderr
    return errors[0]


def test_a_set_of_one_pair_is_called_one_pair(tmp_path):
    words = ["--format", "synthetic", "--input", "default", "--output", "out", "--count", 1]
    assert "out: 1 pair in 1 shard(s)" in tool("make_shards.py", *words, cwd=tmp_path).stdout
    assert "1 pair whole and sound" in tool("validate_shards.py", tmp_path / "out").stdout
    mirrored = tool("curate.py", "mirror", "--shards", tmp_path / "out", "--output", tmp_path / "mirrored")
    assert "mirrored: 1 pair, flipped" in mirrored.stdout


def test_synthetic_from_any_folder_and_the_full_check(tmp_path):
    arguments = ["--format", "synthetic", "--input", "default", "--output", "out", "--count", 5]
    done = tool("make_shards.py", *arguments, "--samples-per-shard", 2, cwd=tmp_path)
    assert done.returncode == 0 and "out: 5 pairs in 3 shard(s)" in done.stdout and "rows: 5 of 5" in done.stderr
    assert len(open_shards(tmp_path / "out")) == 5
    assert tool("validate_shards.py", tmp_path / "out").returncode == 0

    (tmp_path / "out" / "index.json").unlink()
    done = tool("validate_shards.py", tmp_path / "out")
    assert done.returncode == 2 and "--rebuild-index" in one_error_line(done)
    done = tool("validate_shards.py", tmp_path / "out", "--rebuild-index")
    assert done.returncode == 0 and "5 pairs whole and sound" in done.stdout

    tar = tmp_path / "out" / "shard-000001.tar"
    tar.write_bytes(tar.read_bytes()[:3000])
    done = tool("validate_shards.py", tmp_path / "out")
    assert done.returncode == 1 and "problem(s), listed above" in one_error_line(done)
    assert "shard-000001.tar" in done.stdout


def test_the_real_pairs(real_pairs_jsonl, tmp_path):
    done = tool("make_shards.py", "--format", "jsonl", "--input", real_pairs_jsonl, "--output", tmp_path / "out")
    assert done.returncode == 0 and "21 pairs in 1 shard(s)" in done.stdout
    assert "5 row(s) rejected" in done.stderr and "5 x no 'instruction'" in done.stderr
    assert "with --allow-missing-instruction" in done.stderr
    rows = [json.loads(line) for line in (tmp_path / "out" / "rejected.jsonl").read_text().splitlines()]
    assert [row["line"] for row in rows] == [3, 4, 6, 8, 18]
    done = tool("make_shards.py", "--format", "jsonl", "--input", real_pairs_jsonl, "--output", tmp_path / "out")
    assert done.returncode == 2 and "not empty" in one_error_line(done)


def test_a_table_with_a_map_of_its_columns(tmp_path):
    for name in ("coffee.src.jpg", "coffee.tgt.jpg"):
        (tmp_path / name).write_bytes((ROOT / "tests/data_files/pairs" / name).read_bytes())
    (tmp_path / "t.csv").write_text("before,after,words,kind\ncoffee.src.jpg,coffee.tgt.jpg,Mirror it.,mirror\n")
    arguments = ["--format", "table", "--input", "t.csv", "--output", "out"]
    places = "source=before,target=after,instruction=words"
    done = tool("make_shards.py", *arguments, "--map", f"{places},edit_type=kind", "--license", "CC0-1.0", cwd=tmp_path)
    assert done.returncode == 0, done.stderr
    pair = open_shards(tmp_path / "out").pair(0)
    assert (pair.id, pair.category, pair.instruction) == ("t-000001", "structural", "Mirror it.")
    for more, code, words in (
        (["--map", "source"], 2, "'source' is not of the form NAME=COLUMN, such as source=input_image"),
        (["--map", "source=a,source=b"], 2, "source is there twice"),
        ([], 2, "--format table needs --map for source and target"),
        (["--map", places], 2, "give --category semantic, stylistic or structural"),
        (["--map", places, "--images", "nowhere"], 2, "--images nowhere: no such folder"),
    ):
        done = tool("make_shards.py", *arguments[:-1], "other", *more, cwd=tmp_path)
        assert done.returncode == code and words in done.stderr, done.stderr
    done = tool(
        "make_shards.py", "--format", "jsonl", "--input", "t.csv", "--output", "o", "--map", places, cwd=tmp_path
    )
    assert done.returncode == 2 and "--map is not for --format jsonl: leave it out" in one_error_line(done)


def test_nothing_accepted_is_a_failure(tmp_path):
    (tmp_path / "pairs.jsonl").write_bytes(b'{"id": "a"}\n\xff\n')
    done = tool("make_shards.py", "--format", "jsonl", "--input", "pairs.jsonl", "--output", "out", cwd=tmp_path)
    assert done.returncode == 1 and "none of the 2 rows was accepted" in one_error_line(done)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["rejected.jsonl"]


def test_bad_arguments(tmp_path):
    (tmp_path / "p.jsonl").write_text("")
    base = ["--input", tmp_path / "p.jsonl", "--output", tmp_path / "out"]
    for arguments, message in (
        (["--format", "jsonl", *base, "--count", 3], "are not for --format jsonl"),
        (["--format", "jsonl", *base, "--samples-per-shard", 0], "--samples-per-shard is 0: expected 1 or more"),
        (["--format", "jsonl", "--input", "no.jsonl", "--output", tmp_path / "out"], "no.jsonl: no such file"),
        (["--format", "unicedit", *base, "--turns", "both"], "--turns is not for --format unicedit"),
        (["--format", "jsonl", *base, "--language", "en"], "--language is not for --format jsonl"),
        (["--format", "unicbench", *base, "--answers", "nowhere"], "--answers nowhere: no such folder"),
        (["--format", "unicbench", *base], "whose rows have no target picture"),
        (["--format", "x2edit", "--input", "pipe:true", "--output", tmp_path / "out"], "a command is never run"),
    ):
        done = tool("make_shards.py", *arguments)
        assert done.returncode == 2 and message in one_error_line(done)
    assert tool("make_shards.py", "--format", "parquet").returncode == 2
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("name, command", [("make_shards.py", "shards"), ("validate_shards.py", "validate-shards")])
def test_help_shows_an_example(name, command):
    done = tool(name, "--help")
    assert done.returncode == 0 and f"example:\n  editcaption {command} " in done.stdout


# The shared command-line helper


@pytest.mark.parametrize(
    "error, code, line",
    [
        (ValueError("first\n second"), 1, "error: first second"),
        (ArgumentError("bad"), 2, "error: bad"),
        (FileNotFoundError(2, "No such file or directory", "x.png"), 1, "error: x.png: No such file or directory"),
        (KeyError("x"), 1, "error: unexpected KeyError: 'x' (--debug shows where)"),
        (KeyboardInterrupt(), 130, "interrupted"),
    ],
)
def test_errors_are_one_line_and_debug_adds_the_traceback(capsys, error, code, line):
    def main(argv):
        raise error

    assert exit_code(main, []) == code
    assert capsys.readouterr().err == line + "\n"
    assert exit_code(main, ["--debug"]) == code
    shown = capsys.readouterr().err
    assert shown.startswith("Traceback") and shown.endswith(line + "\n")


def test_exit_codes_of_success_and_of_argparse():
    assert exit_code(lambda argv: None, []) == 0 and exit_code(lambda argv: 1, []) == 1
    with pytest.raises(SystemExit) as stopped:
        argument_parser("does", "tool x").parse_args(["--unknown"])
    assert stopped.value.code == 2


def test_progress_writes_plain_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr("editcaption_mega.progress_display._SECONDS_BETWEEN_LINES", 0.0)
    assert list(progress([1, 2], label="rows")) == [1, 2]
    assert list(progress(iter("ab"), label="rows")) == ["a", "b"]
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "rows: 1 of 2 after 0 s" and lines[2].startswith("rows: 2 of 2 in ")
    assert lines[3] == "rows: 1 after 0 s"


def test_progress_is_a_bar_on_a_terminal(monkeypatch, capsys):
    monkeypatch.setattr("sys.stderr.isatty", lambda: True, raising=False)
    assert list(progress(range(3), label="rows")) == [0, 1, 2]
    assert "3/3" in capsys.readouterr().err
