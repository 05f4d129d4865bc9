"""A job that stands still is noticed, the rank that does is named, and what all were doing is kept. With real processes
and limits of seconds; on a real Slurm: tests/launching/test_real_slurm.py."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from editcaption_mega import job_outcome, phases
from editcaption_mega.settings import load_settings
from editcaption_mega.training.watchdog import Beat, diagnosis
from tests.helpers import warm

PROGRAM = """if True:
    import ctypes, os, sys, time
    from pathlib import Path
    from editcaption_mega import phases
    from editcaption_mega.settings import WatchdogSettings
    from editcaption_mega.training import watchdog as w
    w._TICK, w._BEAT, w._SILENT, w._FOR_OTHERS, w._STOOD_STILL, w._MARGIN = 0.05, 0.1, 1.5, 2.5, 0.5, 0.5
    what, folder, minutes = sys.argv[1], sys.argv[2], float(sys.argv[3])

    def stand_still():
        Path(folder, "ready" + os.environ["RANK"]).touch()
        time.sleep(60)

    limits = WatchdogSettings(setup_minutes=minutes, step_minutes=minutes)
    dog = w.Watchdog(limits, lambda: print("released", flush=True))
    dog.start()
    if what != "has no folder yet":
        Path(folder, "logs").mkdir(exist_ok=True)
        dog.keep(Path(folder, "logs"))
    phases.enter(phases.DATA, 8)
    if what == "behind" and os.environ["RANK"] == "1":
        stand_still()
    phases.enter(phases.STEP)
    if what == "crashes":
        os.abort()
    if what == "holds the interpreter":
        time.sleep(1)  # the timer is set with the first beat
        ctypes.PyDLL(None).sleep(60)
    if what == "is suspended":
        Path(folder, "ready0").touch()
        while not Path(folder, "go on").exists():
            time.sleep(0.05)
        dog.stop()
    else:
        stand_still()
"""


def start(what: str, folder: Path, seconds: float, *ranks: int) -> list[warm.Popen]:
    environment = {**os.environ, "WORLD_SIZE": str(len(ranks))}
    command = [sys.executable, "-c", PROGRAM, what, str(folder), str(seconds / 60)]
    return [warm.Popen(command, env={**environment, "RANK": str(rank)}, stderr=subprocess.STDOUT) for rank in ranks]


def wait_for(*paths: Path) -> None:
    deadline = time.monotonic() + 60
    while not all(path.exists() for path in paths):
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("what", ["behind", "stopped"])
def test_the_rank_that_stands_still_is_named(tmp_path, what):
    ranks = start(what, tmp_path, 3.0, 0, 1)
    wait_for(tmp_path / "ready0", tmp_path / "ready1", tmp_path / "logs/heartbeats/rank_00001.json")
    if what == "stopped":
        ranks[1].send_signal(signal.SIGSTOP)
    said = ranks[0].communicate(timeout=60)[0]
    if what == "stopped":
        ranks[1].kill()
    said += ranks[1].communicate(timeout=60)[0]
    errors = [line for line in said.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1, said
    who = f"rank 1 on {os.uname().nodename} (process {ranks[1].pid})"
    if what == "behind":
        assert f"The others wait for {who}, in phase data of step 8" in errors[0], said
        assert "in stand_still" in (tmp_path / "logs/rank_00001.txt").read_text()
        assert [rank.returncode for rank in ranks] == [1, 1]
    else:
        assert f"No sign of life from {who} since" in errors[0] and "in phase step of step 8" in errors[0], said
    assert "in stand_still" in (tmp_path / "logs/rank_00000.txt").read_text()
    assert ranks[0].returncode == 1 and "released" in said
    outcome = job_outcome.read_outcome(tmp_path)
    assert outcome.kind == "fault" and outcome.message == errors[0].removeprefix("error: ")
    assert "watchdog.step_minutes=0.05" in outcome.message


def test_the_first_beat_comes_with_the_folder(tmp_path):
    """Not when the next one is due: a rank that stops before that is to be named by its process, too."""
    program = PROGRAM.replace("= 0.05, 0.1,", "= 0.05, 3600.0,").replace("dog.start()", "dog.start(); time.sleep(0.5)")
    rank = warm.Popen(
        [sys.executable, "-c", program, "is suspended", str(tmp_path), "5"],
        env={**os.environ, "WORLD_SIZE": "1", "RANK": "0"}, stderr=subprocess.STDOUT,
    )  # fmt: skip
    try:
        wait_for(tmp_path / "logs/heartbeats/rank_00000.json")
    finally:
        (tmp_path / "go on").touch()
        assert rank.communicate(timeout=60)[0] == "" and rank.returncode == 0


def test_before_there_is_a_folder_the_stacks_go_to_the_log(tmp_path):
    (rank,) = start("has no folder yet", tmp_path, 1.0, 0)
    said = rank.communicate(timeout=60)[0]
    assert rank.returncode == 1 and "the job stands still" in said and "File " in said, said


def test_compiled_code_that_holds_the_interpreter_ends_too(tmp_path):
    (rank,) = start("holds the interpreter", tmp_path, 3.0, 0)
    said = rank.communicate(timeout=60)[0]
    assert rank.returncode == 1 and "Timeout" in said and 'File "<string>"' in said, said


def test_a_crash_in_compiled_code_leaves_its_stacks(tmp_path):
    (rank,) = start("crashes", tmp_path, 60.0, 0)
    said = rank.communicate(timeout=60)[0]
    assert rank.returncode == -signal.SIGABRT and "Aborted" in said and 'File "<string>"' in said, said


def test_time_in_which_the_process_was_suspended_does_not_count(tmp_path):
    (rank,) = start("is suspended", tmp_path, 10.0, 0)  # what a busy machine takes besides is less
    wait_for(tmp_path / "ready0")
    rank.send_signal(signal.SIGSTOP)
    time.sleep(11.0)
    rank.send_signal(signal.SIGCONT)
    time.sleep(0.5)
    (tmp_path / "go on").touch()
    said = rank.communicate(timeout=60)[0]
    assert rank.returncode == 0, said


def beat(rank, mark=9, silent=1.0, phase="step"):
    return Beat(rank, f"n{rank}", 100 + rank, phase, 3, mark, silent)


@pytest.mark.parametrize(
    ("beats", "words"),
    [
        ([beat(0), beat(1)], "All ranks are at the same place"),
        ([beat(0), beat(1, silent=99.0)], "No sign of life from rank 1 on n1 (process 101) since 99 s, in phase step"),
        ([beat(0), beat(1, mark=8, phase="data")], "The others wait for rank 1 on n1 (process 101), in phase data"),
        ([beat(0)], "No heartbeat at all from rank 1"),
        ([], "All ranks"),
    ],
)
def test_diagnosis(beats, words):
    assert diagnosis(beats, 2).startswith(words)


def test_many_ranks_are_not_all_listed():
    assert diagnosis([beat(rank, silent=60.0 * (rank > 0)) for rank in range(99)], 99).endswith(" and 94 more")


def test_phases_of_the_inputs():
    phases.begin()
    places = []

    def items():
        for _ in range(2):
            places.append(phases.place())
            yield
        places.append(phases.place())

    reader = phases.read(items(), done=4)
    for _ in reader:
        places.append(phases.place())
    assert [(p.phase, p.step) for p in places] == [
        ("setup", 5), ("setup", 5), ("data", 6), ("data of other ranks", 6), ("data", 7),
    ]  # fmt: skip
    assert [p.mark for p in places] == [1, 2, 3, 4, 5] and phases.reading_seconds() >= 0


def test_the_backend_waits_longer_than_any_phase(tmp_path):
    (tmp_path / "job.yaml").write_text("model: {folder: m}\ndata: {shards: [d]}\ntraining: {output: o}\n")
    assert load_settings(tmp_path / "job.yaml", ["watchdog.save_minutes=90"]).watchdog.collective_minutes == 95
    assert load_settings(tmp_path / "job.yaml", ["watchdog.save_minutes=0"]).watchdog.collective_minutes == 1440
    for wrong in ("watchdog.slow_rank=0.5", "watchdog.step_minutes=-1"):
        with pytest.raises(ValueError, match=wrong):
            load_settings(tmp_path / "job.yaml", [wrong])
