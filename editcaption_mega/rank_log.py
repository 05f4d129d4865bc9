"""What a rank prints: the first one into the job's log, each other one into a file of its own, so that the log of a job
of many ranks can be read."""

import os
import sys
from contextlib import suppress
from pathlib import Path


class _State:
    outputs: tuple[int, int] | None = None  # the process's own, while they go to a file


def redirect(path: Path) -> None:
    """From now on stdout and stderr, those of compiled code included, are appended to the file. Raises OSError."""
    path.parent.mkdir(parents=True, exist_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    _flush()
    _State.outputs = os.dup(1), os.dup(2)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    os.close(descriptor)


def restore() -> None:
    """The outputs are as they were before."""
    if _State.outputs is None:
        return
    _flush()
    for number, own in enumerate(_State.outputs, start=1):
        os.dup2(own, number)
        os.close(own)
    _State.outputs = None


def say(line: str) -> None:
    """A line of the job's log, from whichever rank, also where the interpreter is at its end."""
    _flush()
    with suppress(OSError):  # nobody reads it any more
        os.write(2 if _State.outputs is None else _State.outputs[1], f"{line}\n".encode(errors="replace"))


def _flush() -> None:
    for stream in (sys.stdout, sys.stderr):
        with suppress(OSError, ValueError):
            stream.flush()
