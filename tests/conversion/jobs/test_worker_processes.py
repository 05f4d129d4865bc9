"""Work that is divided among forked processes. Each case is a program of its own: pytest's process is not forked."""

import sys
import time
from pathlib import Path

import pytest

from tests.helpers import warm

BEGIN = """
import os, signal, sys, time
from editcaption_mega.conversion.jobs.worker_processes import work_off

def drained(steps):
    more = []
    while True:
        try:
            more.append(next(steps))
        except StopIteration as end:
            return more, end.value

def square(item):
    yield 1
    yield 1
    return item * item, os.getpid()
"""


def program(code, *arguments):
    return [sys.executable, "-c", BEGIN + code, *map(str, arguments)]


def test_results_come_in_order_from_several_processes():
    code = """
more, results = drained(work_off(list(range(6)), square, 3))
assert sum(more) == 12 and [value for value, _ in results] == [0, 1, 4, 9, 16, 25]
assert os.getpid() not in {pid for _, pid in results} and len({pid for _, pid in results}) > 1
more, results = drained(work_off([5], square, 3))
assert results == [(25, os.getpid())] and drained(work_off([], square, 3)) == ([], [])
"""
    assert warm.run(program(code)).stderr == ""


@pytest.mark.parametrize(
    "fault, words",
    [
        ("raise ValueError('the third is odd')", "ValueError the third is odd"),
        ("raise OSError(28, 'No space left on device', 'file')", "OSError [Errno 28] No space left on device: 'file'"),
        ("os.kill(os.getpid(), signal.SIGKILL)", "ChildProcessError a process that shared the work was ended"),
    ],
)
def test_a_fault_of_one_ends_all(fault, words):
    code = f"""
def work(item):
    yield os.getpid()
    if item == 2:
        {fault}
    time.sleep(60 if item else 0)
    return item

pids = []
try:
    for pid in work_off([0, 1, 2], work, 2):
        pids.append(pid)
except Exception as error:
    print(type(error).__name__, error)
for pid in pids:
    try:
        os.kill(pid, 0)
        print("still there")
    except ProcessLookupError:
        pass
"""
    began = time.monotonic()
    run = warm.run(program(code))
    assert run.stdout.startswith(words) and "still there" not in run.stdout, run
    assert time.monotonic() - began < 50


def test_a_killed_parent_leaves_nobody(tmp_path):
    """Who would go on writing beside the next one."""
    code = """
def work(item):
    open(f"{sys.argv[1]}/{item}", "w").write(str(os.getpid()))
    yield 1
    time.sleep(60)

drained(work_off([0, 1, 2], work, 3))
"""
    process = warm.Popen(program(code, tmp_path))
    deadline = time.monotonic() + 60
    while not (len(list(tmp_path.iterdir())) == 3 and all(path.read_text() for path in tmp_path.iterdir())):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    pids = [int(path.read_text()) for path in tmp_path.iterdir()]
    process.kill()
    while any(Path(f"/proc/{pid}").exists() for pid in pids):
        assert time.monotonic() < deadline, "a worker lives on"
        time.sleep(0.05)
