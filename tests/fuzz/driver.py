"""Inputs on readers, each measured: only our errors, one sentence each, at most 5 seconds of CPU and 1 GB of memory.

Every input is a function of (seed, reader, number): `make fuzz FUZZ_ARGS='--only tars:17'` makes a fault again.
"""

import multiprocessing
import os
import resource
import signal
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from tests.helpers import ROOT

MOST_SECONDS, MOST_BYTES = 5.0, 1 << 30
_HANGS = 300.0  # seconds of wall time after which a worker is given up; busy machines are slow
_ROOM = 6 << 30  # address space beyond what a worker has at its start, so that no input takes the machine
PACKAGE = ROOT / "editcaption_mega"

Attempt = Callable[..., Any]  # attempt(function, *arguments, **options) -> the result, None after an error of ours


@dataclass(frozen=True)
class Reader:
    """What is tried: `run(random, folder, attempt)` makes one input in an empty folder and has it read. `share` is how
    many of the inputs it gets, beside the other readers."""

    name: str
    run: Callable[[Random, Path, Attempt], None]
    share: int = 1


@dataclass
class Tally:
    """What became of a reader's inputs."""

    inputs: int = 0
    refused: int = 0
    seconds: float = 0.0
    bytes: int = 0
    faults: list[str] = field(default_factory=list)

    def line(self, name: str) -> str:
        faults = f"{len(self.faults)} faults" if self.faults else "0 faults"
        return (
            f"{name}: {self.inputs:,} inputs, {self.refused:,} refused in one sentence, {self.inputs - self.refused:,} "
            f"read, {faults}; at most {self.seconds:.1f} s and {self.bytes / 1e6:.0f} MB"
        )


def fault_of(error: BaseException) -> str | None:
    """What is wrong with an error, in a few words; None for one that a user can be shown."""
    frames = traceback.extract_tb(error.__traceback__)
    ours = bool(frames) and PACKAGE in Path(frames[-1].filename).resolve().parents
    known = type(error).__module__.startswith("editcaption_mega") or (isinstance(error, ValueError) and ours)
    known = known or (isinstance(error, OSError) and error.strerror is not None)
    text = str(error)
    if not known:
        place = f"{Path(frames[-1].filename).name}:{frames[-1].lineno}" if frames else "?"
        return f"{type(error).__name__} at {place}: {text[:200]!r}"
    if not text or not text.isprintable() or len(text) > 2000:
        return f"{type(error).__name__} that is no plain sentence: {text[:200]!r} ({len(text)} characters)"
    return None


def try_one(reader: Reader, seed: int, number: int) -> tuple[bool, float, int, list[str]]:
    """One input -> (whether it was refused, seconds of CPU, bytes of memory, faults)."""
    random = Random(f"{seed}/{reader.name}/{number}")
    refused, faults = False, []

    def attempt(function, *arguments, **options):
        nonlocal refused
        try:
            return function(*arguments, **options)
        except Exception as error:
            refused = True
            if fault := fault_of(error):
                faults.append(fault)
            return None

    with tempfile.TemporaryDirectory() as folder:
        before, began = _reset_peak(), time.process_time()
        try:
            reader.run(random, Path(folder), attempt)
        except Exception as error:  # the reader's own expectations, or ours
            faults.append(f"afterwards {type(error).__name__}: {str(error)[:200]!r}")
        seconds, grown = time.process_time() - began, max(0, _memory("VmHWM") - before)
    if seconds > MOST_SECONDS:
        faults.append(f"took {seconds:.1f} s of CPU")
    if grown > MOST_BYTES:
        faults.append(f"took {grown / 1e6:.0f} MB of memory")
    return refused, seconds, grown, faults


def fuzz(
    readers: list[Reader],
    inputs: int,
    seed: int,
    workers: int,
    say: Callable[[str], None] = print,
    only: int | None = None,
) -> dict[str, Tally]:
    """Divide the inputs over the readers and have workers try them; `only` is one number instead of all."""
    total = sum(reader.share for reader in readers)
    jobs = []
    for place, reader in enumerate(readers):
        count = -(-inputs * reader.share // total)
        numbers = [only] if only is not None else list(range(count))
        jobs += [(place, chunk) for chunk in (numbers[i : i + 200] for i in range(0, len(numbers), 200))]
    tallies, told = {reader.name: Tally() for reader in readers}, Counter()
    running = [_Worker(readers, seed) for _ in range(min(workers, len(jobs)))]
    try:
        jobs.reverse()
        while jobs or any(worker.busy for worker in running):
            for worker in running:
                if not worker.busy and jobs:
                    worker.start(*jobs.pop())
                place, rest = worker.collect(tallies)
                if rest:
                    jobs.append((place, rest))
            time.sleep(0.02)
            for name, tally in tallies.items():
                for fault in tally.faults[told[name] :]:
                    say(f"{name}: {fault}")
                told[name] = len(tally.faults)
    finally:
        for worker in running:
            worker.stop()
    return tallies


class _Worker:
    """A process that tries inputs one after the other; a new one where it dies or hangs."""

    def __init__(self, readers: list[Reader], seed: int):
        self.readers, self.seed, self.process, self.busy = readers, seed, None, False

    def start(self, place: int, numbers: list[int]) -> None:
        if self.process is None or not self.process.is_alive():
            context = multiprocessing.get_context("fork")
            self.pipe, theirs = context.Pipe()
            self.process = context.Process(target=_work, args=(theirs, self.readers, self.seed), daemon=True)
            self.process.start()
            theirs.close()
        self.place, self.left, self.busy, self.last = place, list(numbers), True, time.monotonic()
        self.pipe.send((place, numbers))

    def collect(self, tallies: dict[str, Tally]) -> tuple[int, list[int]]:
        """Take what is done -> (reader, numbers that a dead process did not come to)."""
        if not self.busy:
            return 0, []
        tally = tallies[self.readers[self.place].name]
        try:
            while self.left and self.pipe.poll():
                refused, seconds, grown, faults = self.pipe.recv()
                number, self.last = self.left.pop(0), time.monotonic()
                tally.inputs, tally.refused = tally.inputs + 1, tally.refused + refused
                tally.seconds, tally.bytes = max(tally.seconds, seconds), max(tally.bytes, grown)
                tally.faults += [f"input {number}: {fault}" for fault in faults]
        except EOFError:
            pass
        if not self.left:
            self.busy = False
            return 0, []
        hangs = time.monotonic() - self.last > _HANGS
        if self.process.is_alive() and not hangs:
            return 0, []
        self.stop()
        code = self.process.exitcode
        died = f"killed the process ({signal.Signals(-code).name if code and code < 0 else f'exit code {code}'})"
        tally.inputs += 1
        tally.faults.append(f"input {self.left[0]}: {f'no end after {_HANGS:.0f} s' if hangs else died}")
        self.process, self.busy = None, False
        return self.place, self.left[1:]

    def stop(self) -> None:
        if self.process is not None:
            self.process.kill()
            self.process.join()


def _work(pipe, readers: list[Reader], seed: int) -> None:
    os.close(2)
    os.open(os.devnull, os.O_WRONLY)  # decoders write complaints there
    limit = _memory("VmSize") + _ROOM
    resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    while True:
        try:
            place, numbers = pipe.recv()
        except EOFError:
            return
        for number in numbers:
            pipe.send(try_one(readers[place], seed, number))


def _memory(name: str) -> int:
    """Bytes of this process: VmRSS, VmHWM (the most of it), VmSize."""
    for line in Path("/proc/self/status").read_text(encoding="ascii").splitlines():
        if line.startswith(f"{name}:"):
            return int(line.split()[1]) << 10
    return 0


def _reset_peak() -> int:
    """Have the kernel count the most memory anew -> what it is now."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return _memory("VmHWM")  # then only what exceeds all inputs before is seen
    return _memory("VmRSS")
