"""The curation demo: its stages are killed and go on, what cannot work is refused in a sentence, and all of it runs."""

import json
import os
import re
import subprocess
import sys
import time

import pytest

from editcaption_mega import cli
from editcaption_mega.data import open_shards
from tests.helpers import ROOT
from tests.tools.test_exit_codes import main_of

STEPS = """
import pathlib, sys, time
folder = pathlib.Path(sys.argv[1])
folder.mkdir(exist_ok=True)
for n in range(int(sys.argv[2])):
    if not (folder / str(n)).exists():
        time.sleep(0.1)
        (folder / str(n)).write_text("made")
(folder / 'whole').touch()
"""


@pytest.fixture(scope="module")
def demo():
    main = main_of("curation_demo")
    return lambda *words: cli.exit_code(main, [str(word) for word in words])


@pytest.fixture
def stages(demo):
    from demos import stages

    return stages


def stage_of(stages, folder, count, usual):
    whole, begun = folder / "whole", folder / "0"
    return stages.Stage("x", "steps", ["-c", STEPS, folder, count], usual, whole, (folder,), begun)


def test_a_stage_is_killed_once_and_goes_on_and_is_not_done_again(stages, tmp_path):
    said = []
    stage = stage_of(stages, tmp_path / "made", 8, usual=0.6)
    runner = stages.StageRunner(tmp_path, True, said.append)
    runner.run(stage)
    (record,) = runner.records
    assert record["kills"] and record["kills"][0] >= 0.25 and stage.whole.exists()
    assert any("killed with -9" in text for text in said)
    again = stages.StageRunner(tmp_path, True, said.append)
    os.rename(stage.whole, tmp_path / "aside")
    again.run(stage)
    assert again.records == runner.records and not stage.whole.exists(), "its mark says that it is done"


def test_a_stage_that_is_over_before_its_kill_is_killed_earlier(stages, tmp_path):
    stage = stage_of(stages, tmp_path / "made", 5, usual=8)
    runner = stages.StageRunner(tmp_path, True, lambda text: None)
    runner.run(stage)
    assert runner.records[0]["kills"] and stage.whole.exists()


def test_a_stage_that_fails_says_so(stages, tmp_path):
    stage = stages.Stage("x", "nothing", ["-c", "raise SystemExit(3)"], 1.0)
    for kills in (True, False):
        with pytest.raises(ValueError, match=r"x .*failed with exit status 3"):
            stages.StageRunner(tmp_path, kills, lambda text: None).run(stage)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--output", "{root}/used"], 2, "holds something else than a demo: choose another --output"),
        (["--output", "{root}/used/file"], 2, "is a file: choose another --output"),
        (["--model", "{root}/used"], 2, "config.json"),
        (["--real", "{root}/nowhere.jsonl"], 2, "--real {root}/nowhere.jsonl is no file"),
        (["--label-studio", "{root}/used/file"], 2, "is no executable: name the label-studio"),
        (["--samples", "1"], 2, "--samples is 1"),
        (["--error-rate", "2"], 2, "is no number from 0 to 1"),
    ],
)
def test_what_cannot_work_is_a_sentence_before_any_work(demo, tmp_path, capsys, words, code, message):
    (tmp_path / "used").mkdir()
    (tmp_path / "used/file").write_text("something")
    words = [word.format(root=tmp_path) for word in words]
    there = ["--label-studio", "none"] if "--label-studio" not in words else []
    output = ["--output", tmp_path / "new"] if "--output" not in words else []
    try:
        ended = demo(*there, *output, *words)
    except SystemExit as end:  # of argparse
        ended = end.code
    said = capsys.readouterr().err
    assert ended == code and message.format(root=tmp_path) in said and "Traceback" not in said
    assert [path.name for path in tmp_path.iterdir()] == ["used"]


def test_without_transformers_serve_nothing_begins(demo, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(sys, "executable", str(tmp_path / "python"))
    monkeypatch.setenv("PATH", str(tmp_path))
    assert demo("--output", tmp_path / "new", "--label-studio", "none") == 2
    assert "server.program=transformers: transformers was not found: install it" in capsys.readouterr().err
    assert not (tmp_path / "new").exists()


def run(output, *words, environment=None):
    command = [sys.executable, "tools/curation_demo.py", "--reduced", "--output", str(output), *map(str, words)]
    settings = {**os.environ, **(environment or {})}
    done = subprocess.run(command, cwd=ROOT, env=settings, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done.stdout


def left_behind(folder):
    """Processes that have the folder in their command line."""
    listed = subprocess.run(["ps", "-eo", "args="], capture_output=True, text=True, check=True).stdout
    return [line for line in listed.splitlines() if str(folder) in line and "ps -eo" not in line]


def texts(folder):
    made = {}
    for name in ("sft", "preference"):
        with open_shards(folder / "shards" / name) as shards:
            pairs = map(shards.pair, range(len(shards)))
            made[name] = [(p.id, p.instruction, p.chosen, p.rejected, p.failure_modes, p.severity) for p in pairs]
    return made


@pytest.mark.slow
def test_all_of_it_runs_and_what_is_killed_ends_alike(tmp_path):
    """Uninterrupted; again, where nothing is left to do; and with every stage killed once."""
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    run(whole, "--label-studio", "none")
    began = time.monotonic()
    again = run(whole, "--label-studio", "none")
    assert time.monotonic() - began < 60 and "captions:" not in again, "a finished stage is not done again"
    said = run(killed, "--label-studio", "none", "--kill-stages")
    figures, of_killed = (json.loads((folder / "figures.json").read_text()) for folder in (whole, killed))
    assert len(of_killed["stages"]) == len(figures["stages"]) == 22
    assert [stage["name"] for stage in of_killed["stages"] if not stage["kills"]] == []
    assert said.count("killed with -9 after") == 22 and not left_behind(killed)
    assert texts(killed) == texts(whole) and of_killed["result"] == figures["result"]
    check(figures)
    page = (whole / "report.html").read_text()
    assert figures["result"]["digest"] in page and "<script" not in page and 'src="http' not in page
    for name in ("scores", "filter", "people", "training", "samples"):
        assert f'<section id="{name}">' in page


def check(figures):
    """What must hold however little the model has learned."""
    assert figures["pairs"] == {"synthetic": 48, "real": 2} and figures["result"]["sft"] >= 10
    scores = {row["score"]: row["value"] for row in figures["scores"]}
    assert {"log_prob_per_token", "margin_swapped", "margin_mirrored", "agreement"} <= scores.keys()
    assert scores["log_prob_per_token"] > 0.6 and scores["agreement"] > 0.55, "samples differ, and say something"
    refine = figures["refine"]
    assert refine["after"]["value"] > refine["before"]["value"] and refine["after"]["value"] > 0.8
    assert figures["preference"]["rejected_wrong"]["value"] > 0.8
    assert figures["filter"]["stages"][-1]["rule"] == "quotas"
    kept = figures["filter"]["stages"][-1]["left"]
    assert (
        kept["structural"] == pytest.approx(2 * kept["semantic"], abs=1)
        and sum(kept.values()) == figures["filter"]["kept"]
    )
    assert figures["sft"]["steps"] == 8
    assert {quality["refused"] for quality in refine["annotators"].values()} == {0}


@pytest.mark.slow
def test_through_a_real_label_studio(tmp_path):
    """People who never err leave nothing wrong, also where every stage is killed; the token stays where it is."""
    if not os.environ.get("EDITCAPTION_LABEL_STUDIO"):
        pytest.skip("EDITCAPTION_LABEL_STUDIO does not name a label-studio executable")
    out = tmp_path / "demo"
    said = run(out, "--error-rate", "0", "--kill-stages")
    assert "starting Label Studio" in said
    figures = json.loads((out / "figures.json").read_text())
    assert figures["refine"]["after"]["value"] == 1.0 and figures["preference"]["chosen_right"]["value"] == 1.0
    assert all(re.fullmatch(r"user-\d+", name) for name in figures["refine"]["annotators"])
    token = (out / "label_studio/token").read_text()
    assert token not in said and token not in (out / "label_studio/log.txt").read_text()
    assert (out / "label_studio/token").stat().st_mode & 0o077 == 0
    again = run(out, "--error-rate", "0")
    assert "starting Label Studio" not in again and not left_behind(out)
