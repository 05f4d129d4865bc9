"""Requests to stop: remembered from the first moment of a process until its job comes to a place where it can leave.

SIGTERM, SIGINT (Ctrl-C), SIGHUP (a closed terminal) and SIGUSR1 (what Slurm sends before a time limit) all ask for the
same: save, leave, and let the same command go on later. The end of the launcher asks for it too.
"""

import multiprocessing
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Any

STOPPING = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)
LAUNCHER = "EDITCAPTION_LAUNCHER"  # pid of the process that started the ranks, where it is one of ours

_SECONDS_TO_LEAVE = 600.0  # for a rank whose launcher is gone: a step and a save take no longer

Handler = Callable[[int, FrameType | None], Any] | int | signal.Handlers | None


class _State:
    asked = 0  # the number of the last signal; 0: none
    listening = False
    answering = False


def listen() -> dict[signal.Signals, Handler]:
    """Remember the signals from now on -> the handlers of before. Only the main thread of a process can: else {}."""
    if _State.listening or threading.current_thread() is not threading.main_thread():
        return {}
    previous = {number: signal.signal(number, _remember) for number in heeded()}
    _State.listening, _State.asked = True, 0
    signal.pthread_sigmask(signal.SIG_UNBLOCK, previous)  # our launcher blocks them: what came before comes now
    return previous


@contextmanager
def listening() -> Iterator[None]:
    """`listen` for the length of a block, unless the process does so anyway."""
    previous = listen()
    try:
        yield
    finally:
        if previous:
            for number, handler in previous.items():
                signal.signal(number, handler)
            _State.listening, _State.asked = False, 0


def heeded() -> list[signal.Signals]:
    """The signals that ask this process to stop: not SIGHUP where nohup has it ignored."""
    return [n for n in STOPPING if n != signal.SIGHUP or signal.getsignal(n) is not signal.SIG_IGN]


def asked() -> int:
    """The signal that asks this process to stop; 0 for none."""
    return _State.asked


def ask(number: int = signal.SIGTERM) -> None:
    """Ask this process to stop, as the signal does."""
    _State.asked = number


@contextmanager
def answered() -> Iterator[None]:
    """A block that looks at `asked` often and leaves soon: nobody need end this process by force meanwhile."""
    before, _State.answering = _State.answering, True
    try:
        yield
    finally:
        _State.answering = before


def leave_with_launcher() -> None:
    """End this process when the one that started it ends, even by SIGKILL: at once, or in `answered` by itself soon.

    A thread looks at the parent's number twice a second. Else ranks of a killed torchrun would go on training."""
    parent = int(os.environ.get(LAUNCHER, os.getppid()))
    if _store_is_gone():
        parent = 0
    threading.Thread(target=_watch, args=(parent,), name="launcher", daemon=True).start()


def _store_is_gone() -> bool:
    """Whether torchrun ended before this rank could ask for its parent: the port that torchrun serves refuses."""
    if os.environ.get("TORCHELASTIC_USE_AGENT_STORE") != "True":
        return False
    try:
        address = os.environ["MASTER_ADDR"], int(os.environ["MASTER_PORT"])
        socket.create_connection(address, timeout=5.0).close()
    except ConnectionRefusedError:
        return True
    except (OSError, KeyError, ValueError):  # a slow network, a name that is not known yet: no sign of that
        return False
    return False


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(0.5)
    who = f"rank {os.environ.get('RANK', '0')}: its launcher is gone"
    if _State.answering:
        print(f"{who}: it saves and leaves", file=sys.stderr, flush=True)
        ask()
        time.sleep(_SECONDS_TO_LEAVE)
        print(f"{who} since {_SECONDS_TO_LEAVE:.0f} s, and it did not come to an end", file=sys.stderr, flush=True)
    os._exit(1)


def _remember(number: int, frame: object) -> None:
    # A second Ctrl-C while nothing is at stake is a person who does not want to wait.
    if number == signal.SIGINT == _State.asked and not _State.answering:
        raise KeyboardInterrupt
    _State.asked = number


def end_with_parent() -> None:
    """In a worker process: it ends when the one that made it is gone, so that nobody is left who goes on working."""
    threading.Thread(target=_wait_for_parent, daemon=True).start()


def _wait_for_parent() -> None:
    parent = multiprocessing.parent_process()
    assert parent is not None, "a worker has the process that made it"
    parent.join()
    os._exit(1)


def end_with_connection(descriptor: int) -> None:
    """This process ends as soon as nobody has the other end of this socket, whatever it is at."""

    def watch() -> None:
        hung_up = select.poll()
        hung_up.register(descriptor, 0)  # which leaves the end of the connection
        hung_up.poll()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
