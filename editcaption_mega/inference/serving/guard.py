"""Runs a server and ends it when whoever started this ends, in whatever way: `guard.py COMMAND ..`.

Its standard input is a pipe that the job holds open; the end of the job, also by kill -9, closes it. The server and its
own children are one process group, which gets SIGTERM and, if it does not leave, SIGKILL. If this program is killed
itself, the kernel ends the server (PR_SET_PDEATHSIG). Standard library alone: it is started without the package."""

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import threading

_PR_SET_PDEATHSIG = 1
_SECONDS_TO_LEAVE = 10.0


def guard_server(command: list[str]) -> int:
    """The server's exit code (128 + the signal that ended it)."""
    ended = threading.Event()
    guard = os.getpid()
    server = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, start_new_session=True, preexec_fn=lambda: _end_with(guard)
    )

    def watch() -> None:
        while os.read(0, 4096):
            pass
        _signal(server.pid, signal.SIGTERM)
        if not ended.wait(_SECONDS_TO_LEAVE):
            _signal(server.pid, signal.SIGKILL)

    for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):  # meant for the job: its end is ours
        signal.signal(number, signal.SIG_IGN)
    threading.Thread(target=watch, daemon=True).start()
    code = server.wait()
    ended.set()
    _signal(server.pid, signal.SIGKILL)  # what a dead server leaves would keep its memory
    return code if code >= 0 else 128 - code


def _end_with(parent: int) -> None:
    """In the server's process, before it is one."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
    if os.getppid() != parent:  # gone already
        os._exit(1)


def _signal(group: int, number: signal.Signals) -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(group, number)


if __name__ == "__main__":
    sys.exit(guard_server(sys.argv[1:]))
