"""Requests to stop, in small processes without PyTorch; through real ranks: tests/training/test_endings.py."""

import os
import signal
import subprocess
import sys
import textwrap
import time

import pytest

from editcaption_mega import signals
from editcaption_mega.launcher import children


@pytest.mark.parametrize("number", signals.STOPPING)
def test_each_signal_is_remembered_and_the_handlers_come_back(number):
    if signal.getsignal(number) is signal.SIG_IGN:  # under nohup, where it would stay ignored
        signal.signal(number, signal.SIG_DFL)
    before = signal.getsignal(number)
    with signals.listening():
        assert signals.asked() == 0
        os.kill(os.getpid(), number)
        assert signals.asked() == number
        with signals.listening():  # inside another: nothing changes
            assert signals.asked() == number
        assert signals.asked() == number
    assert signals.asked() == 0 and signal.getsignal(number) is before


def test_what_came_while_it_was_blocked_is_remembered():
    signal.pthread_sigmask(signal.SIG_BLOCK, signals.STOPPING)
    signal.raise_signal(signal.SIGUSR1)  # to this thread: others, of tests before, do not block it
    with signals.listening():
        assert signals.asked() == signal.SIGUSR1


def test_a_second_interrupt_ends_only_what_has_nothing_to_lose():
    with signals.listening():
        with signals.answered():
            for _ in range(3):
                os.kill(os.getpid(), signal.SIGINT)
        with pytest.raises(KeyboardInterrupt):
            os.kill(os.getpid(), signal.SIGINT)


CHILD = """
    import os, sys, time
    from editcaption_mega import signals
    signals.listen()
    signals.leave_with_launcher()
    print(os.getpid(), flush=True)
    if sys.argv[1] == "answers":
        with signals.answered():
            while not signals.asked():
                time.sleep(0.05)
            time.sleep(0.5)  # its checkpoint
            open(sys.argv[2], "w").write("saved")
    else:
        time.sleep(600)
"""


@pytest.mark.parametrize("kind", ["answers", "sets up"])
def test_it_ends_with_its_launcher(tmp_path, kind):
    """kill -9 of the parent: a rank that trains saves and leaves, one that has nothing yet just ends."""
    parent = (
        f"import subprocess, sys; subprocess.run([sys.executable, '-c', {textwrap.dedent(CHILD)!r}, *sys.argv[1:]])"
    )
    process = subprocess.Popen(
        [sys.executable, "-c", parent, kind, str(tmp_path / "saved")], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    rank = int(process.stdout.readline())
    assert children(process.pid) == {rank}
    process.kill()
    process.wait()
    process.stdout.close()
    deadline = time.monotonic() + 60
    while _lives(rank) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not _lives(rank)
    assert (tmp_path / "saved").exists() == (kind == "answers")


def _lives(pid: int) -> bool:
    try:
        return open(f"/proc/{pid}/stat").read().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
