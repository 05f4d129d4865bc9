"""Results and errors arrive, a process that is killed at any moment is an error and no wait, and processes and server
end without a word: at a Ctrl-C, which reaches every process of a terminal, and when their caller is killed."""

import os
import signal
import subprocess
import sys
import time
from concurrent.futures import CancelledError
from itertools import count
from multiprocessing.connection import Connection
from pathlib import Path

import pytest

from editcaption_mega.process_pool import ProcessPool
from tests.helpers import ROOT

SECONDS = 120  # of a wait that would be forever, on a busy machine


class Unportable(Exception):
    def __init__(self, number, text):
        super().__init__(f"{number} {text}")


def square(number):
    return number * number


def own_process(_):
    return os.getpid()


def refuse(number):
    if number == 3:
        raise KeyError("3 is refused")
    if number == 5:
        raise Unportable(5, "is refused")
    return number


def sleep(seconds):
    time.sleep(seconds)


def end(_):
    os.kill(os.getpid(), signal.SIGKILL)


def unpicklable(_):
    return lambda: 0


def die_in_the_middle_of_a_message():
    """At the start of a process: it is killed when half of its first answer is written."""

    def half(pipe, buffer):
        os.write(pipe.fileno(), bytes(buffer)[: len(buffer) // 2])
        end(None)

    Connection._send = half


def test_results_come_in_order_of_tasks_by_other_processes():
    with ProcessPool(3, "squares") as pool:
        assert list(pool.in_order(square, range(50))) == [(i, i * i) for i in range(50)]
        assert os.getpid() not in {owner for _, owner in pool.in_order(own_process, range(9))}


def test_few_tasks_are_read_ahead():
    read = count()
    with ProcessPool(2, "squares") as pool:
        results = pool.in_order(square, read)
        assert next(results) == (0, 0)
        assert next(read) < 12


def test_an_error_of_a_function_is_raised_and_the_pool_goes_on():
    with ProcessPool(2, "refuses") as pool:
        with pytest.raises(KeyError, match="3 is refused"):
            pool.submit(refuse, 3).result(SECONDS)
        with pytest.raises(RuntimeError, match=r"(?s)Traceback.*Unportable: 5 is refused"):
            pool.submit(refuse, 5).result(SECONDS)
        with pytest.raises((AttributeError, RuntimeError), match="lambda"):
            pool.submit(unpicklable, 0).result(SECONDS)
        with pytest.raises((AttributeError, TypeError), match="pickle"):
            pool.submit(square, (i for i in ())).result(SECONDS)
        assert pool.submit(refuse, 1).result(SECONDS) == 1


def test_an_error_of_the_tasks_comes_behind_the_results_before_it():
    def tasks():
        yield from range(7)
        raise OSError("the disk is gone")

    with ProcessPool(2, "squares") as pool:
        results = pool.in_order(square, tasks())
        assert [next(results) for _ in range(7)] == [(i, i * i) for i in range(7)]
        with pytest.raises(OSError, match="the disk is gone"):
            next(results)


@pytest.mark.parametrize("start", [None, die_in_the_middle_of_a_message], ids=["while it works", "while it writes"])
def test_a_killed_process_is_an_error_of_what_it_did_and_of_what_waits(start):
    with ProcessPool(1, "dies", start=start) as pool:
        futures = [pool.submit(end if start is None else square, i) for i in range(3)]
        for future in futures:
            with pytest.raises(ChildProcessError, match=r"a process that dies ended with code -9, .*--workers"):
                future.result(SECONDS)
        with pytest.raises(ChildProcessError, match="code -9"):
            pool.submit(square, 1).result(SECONDS)


def test_a_killed_process_ends_the_pool_while_others_work():
    with ProcessPool(2, "dies") as pool:
        asleep, ended, waiting = pool.submit(sleep, 1), pool.submit(end, 0), pool.submit(square, 2)
        for future in (ended, waiting):
            with pytest.raises(ChildProcessError):
                future.result(SECONDS)
        assert asleep.result(SECONDS) is None


def test_the_end_of_the_block_ends_what_is_not_done():
    with ProcessPool(1, "sleeps") as pool:
        pool.submit(square, 2).result(SECONDS)
        begun, waiting = pool.submit(sleep, 600), pool.submit(square, 2)
        while not begun.running():
            time.sleep(0.01)
    with pytest.raises(ChildProcessError, match="closed"):
        begun.result(SECONDS)
    with pytest.raises(CancelledError):
        waiting.result(SECONDS)
    with pytest.raises(RuntimeError, match="closed"):
        pool.submit(square, 2)


def test_a_process_does_a_few_tasks_where_that_is_asked():
    with ProcessPool(1, "works", tasks_each=2) as pool:
        owners = [owner for _, owner in pool.in_order(own_process, range(6))]
    assert owners[0::2] == owners[1::2] and len(set(owners)) == 3


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
from editcaption_mega.process_pool import ProcessPool

def work(seconds):
    Path("working").touch()
    time.sleep(seconds)

def main(argv):
    with ProcessPool(2, "works", preload="slow_to_import") as pool:
        pool.submit(work, 0 if argv[0] == "idle" else 60).result()
        Path("idle").touch()
        time.sleep(60)

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
