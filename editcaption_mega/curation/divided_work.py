"""Work on a part by several processes: each has its share of the pairs, with its own lines and replies; the job has the
server, the progress and the last word.

One process makes as many captions as one core can ask for: the interpreter runs one thread at a time. A killed one
loses what it had in flight, as a job does.
"""

import multiprocessing
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from itertools import repeat
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

from editcaption_mega.evaluation.generate import Part
from editcaption_mega.inference.serving.server import OwnServer

from .meter import Meter

_REPORT_SECONDS = 0.1  # between reports of a worker
_LOOK_SECONDS = 0.2  # between looks whether the job's server lives
_END_SECONDS = 10.0


class WorkerError(RuntimeError):
    """A worker ended without a reason that it could give."""

    exit_code = 1


@dataclass
class Share:
    """What one worker does, and its way to the job."""

    part: Part  # of the whole set
    number: int
    count: int  # of workers
    job: Connection
    server: "SharedServer | None" = None
    _reported: float = field(default_factory=time.monotonic)

    def of(self, total: int) -> int:
        """Its share of so many things: no two workers' differ by more than one."""
        return total // self.count + (self.number < total % self.count)

    def report(self, meter: Meter, *, now: bool = False) -> None:
        """Tell the job from time to time what was made since the last report."""
        if now or time.monotonic() - self._reported >= _REPORT_SECONDS:
            self._reported = time.monotonic()
            self.job.send(("made", meter.take()))


class SharedServer:
    """The job's own server, as a worker sees it: one that was started again is another one."""

    def __init__(self, job: Connection):
        self._job, self._start, self._looked, self._alive = job, 0, 0.0, True

    def url(self) -> str:
        url, self._start = self._ask("url")
        self._looked = 0.0
        return str(url)

    def is_healthy(self) -> bool:
        healthy, start = self._ask("is_healthy")
        return bool(healthy) and start == self._start

    @property
    def alive(self) -> bool:
        if time.monotonic() - self._looked > _LOOK_SECONDS:
            alive, start = self._ask("alive")
            self._alive, self._looked = alive and start == self._start, time.monotonic()
        return self._alive

    def _ask(self, what: str) -> tuple[Any, int]:
        self._job.send((what, None))
        answer: tuple[Any, int] = self._job.recv()
        return answer


def divided(
    work: Callable[..., None],
    arguments: Sequence[Any],
    *,
    part: Part,
    workers: int,
    server: OwnServer | None,
    meter: Meter,
) -> Iterator[None]:
    """Something for each line that the workers make; `meter` has them all.

    work(share, *arguments) is called in each process. Raises what it raises, and WorkerError for a worker that was
    killed; the others end then."""
    with _started(work, arguments, part, workers, server is not None) as processes:
        while processes:
            for job in wait(list(processes)):
                assert isinstance(job, Connection)
                try:
                    kind, value = job.recv()
                except (EOFError, ConnectionResetError):
                    _check_end(processes.pop(job))
                    continue
                if kind == "made":
                    made, usage = value
                    meter.join(made, usage)
                    yield from repeat(None, made)
                elif kind == "error":
                    raise value
                else:
                    assert server is not None
                    _answer(job, kind, server)


def _answer(job: Connection, kind: str, server: OwnServer) -> None:
    value = server.url() if kind == "url" else server.is_healthy() if kind == "is_healthy" else server.alive
    with suppress(OSError):  # of a worker that was killed meanwhile
        job.send((value, server.starts))


@contextmanager
def _started(
    work: Callable[..., None], arguments: Sequence[Any], part: Part, count: int, serves: bool
) -> Iterator[dict[Connection, BaseProcess]]:
    """The workers by the job's end of their pipes. They end with the block, and with the job however that ends."""
    context = multiprocessing.get_context("spawn")
    watched, life = context.Pipe(duplex=False)
    started: list[tuple[Connection, BaseProcess]] = []
    try:
        with _without_interrupts():
            for number in range(count):
                ours, theirs = context.Pipe()
                mine = Part(part.number + number * part.count, part.count * count)
                share = Share(mine, number, count, theirs, SharedServer(theirs) if serves else None)
                process = context.Process(target=_run, args=(work, share, watched, arguments), daemon=True)
                process.start()
                theirs.close()
                started.append((ours, process))
        yield dict(started)
    finally:
        life.close()
        watched.close()
        for _, process in started:
            process.join(_END_SECONDS)
            process.kill()


@contextmanager
def _without_interrupts() -> Iterator[None]:
    """For processes that are started in the block: a Ctrl-C reaches all, the job says so, and its end is theirs."""
    before = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
    try:
        yield
    finally:
        signal.pthread_sigmask(signal.SIG_SETMASK, before)


def _check_end(process: BaseProcess) -> None:
    process.join()
    if code := process.exitcode:
        how = f"was ended by signal {-code}" if code < 0 else f"ended with code {code}"
        raise WorkerError(f"a worker {how}; what was made is kept, and the same command goes on")


def _run(work: Callable[..., None], share: Share, watched: Connection, arguments: Sequence[Any]) -> None:
    threading.Thread(target=_end_with_job, args=(watched,), daemon=True).start()
    try:
        work(share, *arguments)
    except Exception as error:
        if not (isinstance(error, ValueError | OSError) or hasattr(error, "exit_code")):
            raise  # a defect: its traceback is worth more
        share.job.send(("error", error))
    share.job.close()
    sys.exit(0)


def _end_with_job(watched: Connection) -> None:
    with suppress(OSError, EOFError):
        watched.recv_bytes()
    os._exit(1)
