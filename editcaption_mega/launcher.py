"""Starts the ranks of one machine with torchrun's own agent, and sees them to an end that is theirs.

    python -m editcaption_mega.launcher [torchrun's options] SCRIPT [arguments]

Unlike torchrun it passes on any request to stop and then waits for as long as the ranks need for their checkpoint
(torchrun kills them after 30 seconds, and dies of SIGUSR1), ends with the exit code of the rank that failed first, and
adds to what that rank said only what it could not say itself.
"""

import logging
import os
import signal
import socket
import sys
import threading
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from editcaption_mega import cli, job_outcome, signals
from editcaption_mega.job_outcome import JobOutcome


def main(argv: Sequence[str]) -> int:
    """-> 0, or the exit code of the first rank that failed (1 for one that a signal ended)."""
    heeded = signals.heeded()
    # Blocked here and in each rank until it can remember them: none is lost and none kills, whenever it comes.
    signal.pthread_sigmask(signal.SIG_BLOCK, heeded)
    threading.Thread(target=_pass_on, args=(heeded,), name="signals", daemon=True).start()
    os.environ[signals.LAUNCHER] = str(os.getpid())
    os.environ.setdefault("PYTHONFAULTHANDLER", "1")
    if "LOGLEVEL" not in os.environ:
        logging.disable(logging.ERROR)  # the agent's own account of what a rank has said already
    from torch.distributed import run
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    arguments = run.parse_args(argv)
    if hasattr(arguments, "signals_to_handle"):
        arguments.signals_to_handle = "SIGQUIT"
    try:
        run.run(arguments)
    except ChildFailedError as error:
        rank, failure = error.get_first_failure()
        if failure.exitcode > 0:
            return failure.exitcode
        number = signal.Signals(-failure.exitcode)
        why = (
            "by the kernel, where memory ran out, or by somebody"
            if number == signal.SIGKILL
            else "a crash of compiled code, whose traceback is above"
        )
        sentence = (
            f"a rank on {socket.gethostname()} (local rank {failure.local_rank}, process {failure.pid}) was ended by "
            f"{number.name} ({why})"
        )
        job_outcome.report(JobOutcome.here(job_outcome.FAULT, sentence, exit_code=1, rank=rank), overrule=True)
        print(f"error: {sentence}; the same command goes on from the newest checkpoint", file=sys.stderr)
        return 1
    return 0


def _pass_on(heeded: list[signal.Signals]) -> None:
    """Wait for a request to stop and send it to every rank, those that start later included."""
    number = signal.sigwait(heeded)
    print(f"{signal.Signals(number).name}: the ranks save and leave", file=sys.stderr, flush=True)
    informed: set[int] = set()
    while True:
        for pid in children(os.getpid()) - informed:
            informed.add(pid)
            with suppress(ProcessLookupError):  # it ended meanwhile
                os.kill(pid, number)
        time.sleep(0.5)


def children(parent: int) -> set[int]:
    """Pids of the processes that `parent` started and that live (Linux)."""
    pids = set()
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = path.read_text(encoding="utf-8", errors="replace").rpartition(")")[2].split()
        except OSError:  # it ended meanwhile
            continue
        if int(fields[1]) == parent and fields[0] not in "ZX":
            pids.add(int(path.parent.name))
    return pids


if __name__ == "__main__":
    cli.run(main)
