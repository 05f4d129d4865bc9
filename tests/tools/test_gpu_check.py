"""`tools/gpu_check.py`: parts that fail do not stop the others, what is measured is kept, and what is wrong is said.

CI runs the whole check in its CPU form; see .ci/run."""

import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
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


def starts_a_program(part, output, on_gpu, ceilings, sender):
    program = subprocess.Popen(["sleep", "600"])
    sender.send(("figure", {"name": str(program.pid), "value": str(os.getpid())}))
    time.sleep(600)


def ended(pid: str) -> bool:
    """Within ten seconds; a process whose parent does not ask for its end is one as well."""
    stat = Path(f"/proc/{pid}/stat")
    for _ in range(100):
        try:
            if stat.read_text().rpartition(") ")[2][0] == "Z":
                return True
        except OSError:
            return True
        time.sleep(0.1)
    return False


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
def test_what_a_part_has_started_ends_with_its_time(gpu_check, monkeypatch, tmp_path):
    monkeypatch.setattr(gpu_check, "execute", starts_a_program)
    (figure,) = gpu_check.in_own_process("jobs", tmp_path, False, {}, 1.0)["figures"]
    assert ended(figure["name"]) and ended(figure["value"])


CHECK = """
import importlib.util, subprocess, sys, time, os, pathlib, math
spec = importlib.util.spec_from_file_location("gpu_check", sys.argv[1])
module = importlib.util.module_from_spec(spec)
spec.loader.exec_module(module)
def execute(part, output, on_gpu, ceilings, sender):
    program = subprocess.Popen(["sleep", "600"])
    print(program.pid, os.getpid(), flush=True)
    time.sleep(600)
module.execute = execute
module.in_own_process("jobs", pathlib.Path("."), False, {}, math.inf)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="/proc")
@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_nothing_goes_on_behind_a_check_that_was_ended(tmp_path, number):
    command = [sys.executable, "-c", CHECK, str(ROOT / "tools/gpu_check.py")]
    environment = dict(os.environ, PYTHONPATH=str(ROOT))
    with subprocess.Popen(command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True) as check:
        pids = check.stdout.readline().split()
        check.send_signal(number)
    assert len(pids) == 2 and all(map(ended, pids))


def test_the_time_that_is_left_is_divided_among_the_parts_behind(gpu_check):
    assert gpu_check.BUDGETS.keys() == gpu_check.PARTS.keys()
    assert sum(gpu_check.BUDGETS.values()) <= gpu_check.ALL_PARTS
    parts = list(gpu_check.PARTS)
    for part in parts:
        rest = sum(gpu_check.BUDGETS[name] for name in parts[parts.index(part) :])
        assert gpu_check.share_of(part, parts, rest) == pytest.approx(gpu_check.BUDGETS[part])
    assert gpu_check.share_of("steps", ["machine", "steps"], 100.0) == 100
    assert gpu_check.share_of("steps", ["steps", "peers"], math.inf) == math.inf


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


@pytest.mark.parametrize(
    "content",
    ["", '{"part": "ker', "[]", "null", "{}", '{"part": "kernels", "code": ["x", "torch", "CPU"], "error": null}'],
)
def test_a_file_of_a_part_that_is_cut_or_another_s_is_measured_again(gpu_check, tmp_path, content):
    code = ["x", "torch", "CPU"]
    whole = {"part": "kernels", "seconds": 1.0, "error": None, "figures": [], "code": code}
    path = tmp_path / "kernels.json"
    path.write_text(json.dumps(whole))
    assert gpu_check.earlier_result(tmp_path, "kernels", code) == whole
    assert gpu_check.earlier_result(tmp_path, "kernels", ["x", "torch", "H100"]) is None
    path.write_text(content)
    assert gpu_check.earlier_result(tmp_path, "kernels", code) is None


@pytest.mark.parametrize("content", ["", "[]", "{}", '{"parts": [{"figures": []}]}'])
def test_a_kept_file_that_is_no_report_is_named(gpu_check, tmp_path, content):
    from gpu_checks import report

    (tmp_path / "h100.json").write_text(content)
    with pytest.raises(ValueError, match="h100.json is no report of the GPU check: remove it"):
        report.page(tmp_path)


@pytest.mark.skipif(shutil.which("nvcc", path="/usr/bin:/bin") is not None, reason="nvcc is where the shell is")
def test_a_gpu_without_a_compiler_is_told(tmp_path):
    driver = tmp_path / "nvidia-smi"
    driver.write_text("#!/bin/sh\necho 9.0\n")
    driver.chmod(0o755)
    environment = dict(os.environ, PATH=f"{tmp_path}:{Path(sys.executable).parent}:/usr/bin:/bin", PYTHONPATH=str(ROOT))
    environment.pop("CUDA_HOME", None)
    command = ["bash", str(ROOT / "tools/gpu_check.sh"), "--only", "speed", "--output", str(tmp_path / "out")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 2 and "no nvcc, so the extension stays as it is" in done.stderr, done.stderr
    assert "--only speed: no such part" in done.stderr


def test_a_part_that_nobody_knows_is_refused(gpu_check, tmp_path, capsys):
    from editcaption_mega.cli import ArgumentError

    with pytest.raises(ArgumentError, match="--only speed: no such part; there are machine, kernels"):
        gpu_check.main(["--output", str(tmp_path / "out"), "--only", "speed"])
    with pytest.raises(ArgumentError, match="--only '': no such part"):
        gpu_check.main(["--output", str(tmp_path / "out"), "--only", ""])
    assert not (tmp_path / "out").exists()


def test_the_page_is_made_from_the_kept_reports(gpu_check):
    from gpu_checks import report

    assert (ROOT / "docs/performance.md").read_text() == report.page(Path(gpu_check.MEASUREMENTS))


def test_kernels_are_told_apart_by_their_names(gpu_check):
    from benches.measuring import kinds_of_kernels

    seconds = {
        "void pytorch_flash::flash_fwd_kernel<Flash_fwd_kernel_traits<..>>": 3.0,
        "nvjet_sm90_tst_128x256_64x4_2x1_v_bz_coopA_NTN": 2.0,
        "_ZN7cutlass13device_kernelIN2at4cuda6detail": 1.0,
        "void ecm::(anonymous namespace)::rms_norm_kernel<ecm::BFloat16>": 0.5,
        "void at::native::vectorized_elementwise_kernel<8, at::native>": 0.25,
    }
    assert kinds_of_kernels(seconds) == {"attention": 3.0, "our kernels": 0.5, "products": 3.0, "the rest": 0.25}
