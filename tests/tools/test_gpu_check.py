"""`tools/gpu_check.py`: parts that fail do not stop the others, what is measured is kept, and what is wrong is said.

CI runs the whole check in its CPU form; see .ci/run."""

import importlib.util
import json
import math
import os
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT


@pytest.fixture(scope="module")
def gpu_check():
    spec = importlib.util.spec_from_file_location("gpu_check", ROOT / "tools/gpu_check.py")
    module = importlib.util.module_from_spec(spec)
    before = list(sys.path)
    spec.loader.exec_module(module)
    yield module
    sys.path[:] = before


def figure(gpu_check, value, **bounds):
    from gpu_checks.figures import Figure

    return Figure("x", value, **bounds)


def test_a_figure_beyond_what_is_right_is_wrong_and_so_is_none_at_all(gpu_check):
    assert figure(gpu_check, 0.5, most=1.0).verdict(False) == "right"
    for value in (1.5, math.nan):
        assert figure(gpu_check, value, most=1.0).verdict(False) == "WRONG: at most 1"


def test_a_goal_is_for_gpus(gpu_check):
    assert figure(gpu_check, 0.5, goal=0.9).verdict(False) == ""
    assert figure(gpu_check, 0.5, goal=0.9).verdict(True) == "below 0.9"
    assert figure(gpu_check, 0.95, goal=0.9).verdict(True) == "reached"
    assert figure(gpu_check, "not run", goal=0.9).verdict(True) == ""


def one_figure(part, output, on_gpu, ceilings, sender):
    sender.send(("figure", {"name": "a", "value": 1.0}))


def ends(part, output, on_gpu, ceilings, sender):
    one_figure(part, output, on_gpu, ceilings, sender)
    sender.send(("end", None))


def dies(part, output, on_gpu, ceilings, sender):
    one_figure(part, output, on_gpu, ceilings, sender)
    os._exit(9)


def hangs(part, output, on_gpu, ceilings, sender):
    one_figure(part, output, on_gpu, ceilings, sender)
    time.sleep(600)


@pytest.mark.parametrize(
    "execute, seconds, error",
    [(ends, math.inf, None), (dies, math.inf, "its process ended without a word"), (hangs, 1.0, "more than 1 s")],
)
def test_a_part_s_figures_are_there_however_it_ends(gpu_check, monkeypatch, tmp_path, execute, seconds, error):
    monkeypatch.setattr(gpu_check, "execute", execute)
    result = gpu_check.in_own_process("machine", tmp_path, False, {}, seconds)
    assert result["error"] == error and [f["name"] for f in result["figures"]] == ["a"]


def test_an_error_is_one_sentence_and_its_traceback_a_file(gpu_check, tmp_path):
    # No part: one that computes cannot be forked from a process of tests, whose threads have locks.
    result = gpu_check.in_own_process("figures", tmp_path, False, {}, math.inf)
    assert result["error"] == "AttributeError: module 'gpu_checks.figures' has no attribute 'run'"
    assert "AttributeError" in (tmp_path / "figures.traceback.txt").read_text()


def test_what_was_measured_is_not_measured_again_until_something_changed(gpu_check, monkeypatch, tmp_path):
    executed = []

    def pretend(part, output, on_gpu, ceilings, seconds):
        executed.append(part)
        failed = part == "kernels" and executed.count(part) == 1
        wrong = {"name": "a", "value": 1.0, "unit": "", "note": "", "verdict": "WRONG: at most 0"}
        figures = [] if failed else [wrong]
        return {"part": part, "seconds": 1.0, "error": "it failed" if failed else None, "figures": figures}

    monkeypatch.setattr(gpu_check, "in_own_process", pretend)
    command = ["--output", str(tmp_path), "--only", "kernels,attention"]
    assert gpu_check.main(command) == 1
    assert executed == ["machine", "kernels", "attention"], "the ceilings are measured in any case"
    assert gpu_check.main(command) == 1, "what is wrong stays wrong"
    assert executed[3:] == ["kernels"], "only the part that failed"
    monkeypatch.setattr(gpu_check, "code_digest", lambda: "other code")
    gpu_check.main(command)
    assert executed[4:] == ["machine", "kernels", "attention"]
    report = json.loads((tmp_path / "gpu_check.json").read_text())
    assert [part["part"] for part in report["parts"]] == ["machine", "kernels", "attention"]
    assert "| kernels | a | 1 | WRONG: at most 0 |" in (tmp_path / "gpu_check.md").read_text()


def test_a_part_that_nobody_knows_is_refused(gpu_check, tmp_path, capsys):
    from editcaption_mega.cli import ArgumentError

    with pytest.raises(ArgumentError, match="--only speed: no such part; there are machine, kernels"):
        gpu_check.main(["--output", str(tmp_path / "out"), "--only", "speed"])
    assert not (tmp_path / "out").exists()


def test_the_page_is_made_from_the_kept_reports(gpu_check):
    from gpu_checks import report

    assert (ROOT / "docs/performance.md").read_text() == report.page(Path(gpu_check.MEASUREMENTS))
