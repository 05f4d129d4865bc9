"""A function of every sample, over processes: in order, errors as they are, and no process outlives its caller."""

import os
import signal
import subprocess
import sys
import time

import psutil
import pytest

from editcaption_mega.data.shard_processes import over_samples
from tests.helpers import ROOT


class Numbers:
    def __init__(self, count):
        self.count = count

    def __len__(self):
        return self.count


def square(numbers, i):
    return i * i


def refuse(numbers, i):
    if i == 40:
        raise ValueError("40 is refused")
    return i


def end(numbers, i):
    os.kill(os.getpid(), signal.SIGKILL)


def own_process(numbers, i):
    return os.getpid()


@pytest.mark.parametrize("workers", [1, 2, 3])
def test_results_are_in_order(workers):
    assert list(over_samples(Numbers(100), square, workers)) == [(i, i * i) for i in range(100)]


def test_work_is_done_by_other_processes():
    owners = {owner for _, owner in over_samples(Numbers(200), own_process, 2)}
    assert os.getpid() not in owners and owners


def test_what_a_function_raises_is_raised_here():
    with pytest.raises(ValueError, match="40 is refused"):
        list(over_samples(Numbers(100), refuse, 2))


def test_a_process_that_is_killed_is_a_sentence():
    with pytest.raises(ChildProcessError, match="a process that reads pictures ended with code -9, .* fewer --workers"):
        list(over_samples(Numbers(100), end, 2))


def test_no_worker_outlives_a_killed_caller():
    code = (
        "import time; from tests.data.test_shard_processes import Numbers, own_process\n"
        "from editcaption_mega.data.shard_processes import over_samples\n"
        "work = over_samples(Numbers(10_000), own_process, 2); print(next(work)[1], flush=True); time.sleep(300)"
    )
    caller = subprocess.Popen([sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, text=True)
    worker = psutil.Process(int(caller.stdout.readline()))
    caller.kill()
    caller.wait()
    deadline = time.monotonic() + 60
    while worker.is_running() and worker.status() != psutil.STATUS_ZOMBIE and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not worker.is_running() or worker.status() == psutil.STATUS_ZOMBIE
