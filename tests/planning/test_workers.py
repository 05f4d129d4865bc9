"""Workers and their server end without a word: at a Ctrl-C, which reaches every process of a terminal, and when their
caller is killed."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.helpers import ROOT

SLOW_TO_IMPORT = """
import time
from pathlib import Path

Path(__file__).with_name("importing").touch()
time.sleep(1)
"""
PROGRAM = """
import signal
import time
from pathlib import Path

from editcaption_mega.cli import run
from editcaption_mega.planning.workers import worker_pool

def work(seconds):
    Path("working").touch()
    time.sleep(seconds)

def main(argv):
    with worker_pool("slow_to_import") as pool:
        try:
            pool.submit(work, 0 if argv[0] == "idle" else 60).result()
            Path("idle").touch()
            time.sleep(60)
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise

if __name__ == "__main__":
    # As at a terminal: a program that a script began in the background ignores interrupts, and so would this one.
    signal.signal(signal.SIGINT, signal.default_int_handler)
    run(main)
"""


def begun(folder: Path, moment: str) -> subprocess.Popen:
    """The program, in a session of its own, when it has come to the moment."""
    (folder / "slow_to_import.py").write_text(SLOW_TO_IMPORT, encoding="utf-8")
    (folder / "program.py").write_text(PROGRAM, encoding="utf-8")
    environment = {**os.environ, "PYTHONPATH": f"{folder}{os.pathsep}{ROOT}"}
    command = [sys.executable, folder / "program.py", moment]
    process = subprocess.Popen(
        command, env=environment, stderr=subprocess.PIPE, text=True, start_new_session=True, cwd=folder
    )
    end = time.monotonic() + 60
    while not (folder / moment).exists() and process.poll() is None and time.monotonic() < end:
        time.sleep(0.02)
    assert (folder / moment).exists()
    return process


@pytest.mark.parametrize("moment", ["importing", "working", "idle"])
def test_an_interrupt_is_one_line(tmp_path, moment):
    process = begun(tmp_path, moment)
    os.killpg(process.pid, signal.SIGINT)
    _, said = process.communicate(timeout=60)  # the pipe is open until the last of them has ended
    assert (process.returncode, said) == (130, "interrupted\n")


@pytest.mark.parametrize("moment", ["working", "idle"])
def test_with_a_caller_that_is_killed_all_end(tmp_path, moment):
    process = begun(tmp_path, moment)
    process.kill()
    _, said = process.communicate(timeout=60)
    assert "Traceback" not in said
