"""What is done to a job while it runs. Each returns the name of its kind when it hit something that lived."""

import dataclasses
import json
import os
import random
import signal
import time
from collections.abc import Callable, Sequence
from pathlib import Path

from .starts import Job, Started, start
from .stream import Layout

CHANGES = (88, 8)  # of files, in an undisturbed run: by rank 0, by each other one
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1, signal.SIGHUP)


class Faults:
    """Draws faults for one job. `seconds` is how long an undisturbed start takes, for each way to start."""

    def __init__(
        self,
        job: Job,
        rng: random.Random,
        seconds: dict[str, float],
        layouts: bool = False,
        environment: dict[str, str] | None = None,
    ):
        """layouts: each start has another. environment: of the ranks."""
        self.job, self.rng, self.seconds, self.layouts = job, rng, seconds, layouts
        self.environment = environment or {}
        self.layout: Layout | None = None  # of the last start
        self.published = 0  # step of the newest checkpoint when the last fault hit

    def run(self, kind: str, how: str, log: Path) -> bool:
        """Start the job and do that to it -> whether it hit: the start did not end by itself before."""
        return KINDS[kind](self, how, log)

    def start(self, how: str, log: Path, overrides: Sequence[str] = (), **environment: str) -> Started:
        job = self.job
        if self.layouts:
            self.layout = Layout.draw(self.rng)
            job = dataclasses.replace(job, ranks=self.layout.ranks)
            overrides = [*overrides, *self.layout.overrides]
        return start(job, log, how, list(overrides), **self.environment, **environment)

    def _sent(self, how: str, log: Path, number: int, pick: Callable[[Started], list[int]]) -> bool:
        started = self.start(how, log)
        moment = time.monotonic() + self.rng.uniform(0.0, 1.05 * self.seconds[how])
        while time.monotonic() < moment and started.code() is None:
            time.sleep(0.01)
        if hasattr(started, "ended"):
            return False
        return self._hit(started, number, pick)

    def _hit(self, started: Started, number: int, pick: Callable[[Started], list[int]]) -> bool:
        self.published = newest(self.job.output)
        pids = pick(started)
        started.send(number, *pids)
        if number == signal.SIGKILL and started.pid not in pids:
            started.wait()
            return bool(pids)
        started.wait()
        return True

    def kill_everything(self, how: str, log: Path) -> bool:
        return self._sent(how, log, signal.SIGKILL, lambda started: [*started.ranks(), started.pid])

    def kill_while_saving(self, how: str, log: Path) -> bool:
        """As soon as a checkpoint is being written, or a little later: its thread is anywhere, and steps go on."""
        started = self.start(how, log)
        before, wanted = newest(self.job.output), self.rng.randint(1, 3)
        left = set(self.job.output.glob("checkpoints/step_*.partial"))  # of the one killed before; the start clears it
        seen: set[Path] = set()
        while started.code() is None:
            there = set(self.job.output.glob("checkpoints/step_*.partial"))
            left &= there
            seen |= there - left
            if len(seen) >= wanted:
                time.sleep(self.rng.uniform(0.0, 0.1))
                hit = self._hit(started, signal.SIGKILL, lambda started: [*started.ranks(), started.pid])
                self.published = max(self.published, before)
                return hit
            time.sleep(0.002)
        return False

    def kill_launcher(self, how: str, log: Path) -> bool:
        return self._sent(how, log, signal.SIGKILL, lambda started: [started.pid])

    def kill_rank(self, how: str, log: Path) -> bool:
        def pick(started: Started) -> list[int]:
            ranks = started.ranks()
            return [self.rng.choice(ranks)] if ranks else [started.pid]

        return self._sent(how, log, signal.SIGKILL, pick)

    def kill_worker(self, how: str, log: Path) -> bool:
        """A process that reads rows: its rank goes on with a new one, unless all are killed soon after."""
        started = self.start(how, log)
        moment = time.monotonic() + self.rng.uniform(0.0, 1.05 * self.seconds[how])
        while (time.monotonic() < moment or not started.workers()) and started.code() is None:
            time.sleep(0.01)
        workers = [] if hasattr(started, "ended") else started.workers()
        if not workers:
            return False
        self.published = newest(self.job.output)
        started.send(signal.SIGKILL, self.rng.choice(workers))
        if self.rng.random() < 0.5:
            time.sleep(self.rng.uniform(0.0, 2.0))
            if started.code() is None:
                return self._hit(started, signal.SIGKILL, lambda started: [*started.ranks(), started.pid])
        elif (code := started.wait()) != 0:
            raise AssertionError(f"a start whose worker was killed ended with {code}: {log.read_text()[-1500:]}")
        return True

    def kill_at_point(self, how: str, log: Path) -> bool:
        rank = self.rng.randrange(self.job.ranks)  # with other layouts it may not be there: no hit
        point = [rank, self.rng.randint(1, CHANGES[min(rank, 1)]), str(self.job.output)]
        started = self.start(how, log, CHAOS_POINT=json.dumps(point))
        before = log.stat().st_size
        started.wait()
        return b"CHAOS:" in log.read_bytes()[max(0, before - 200) :]

    def signal_launcher(self, how: str, log: Path) -> bool:
        return self._sent(how, log, self.rng.choice(SIGNALS), lambda started: [started.pid])

    def signal_all(self, how: str, log: Path) -> bool:
        """As `scancel --signal` does: torchrun and its ranks at once."""
        number = self.rng.choice((signal.SIGUSR1, signal.SIGTERM))
        return self._sent(how, log, number, lambda started: [started.pid, *started.ranks()])

    def signal_rank(self, how: str, log: Path) -> bool:
        def pick(started: Started) -> list[int]:
            ranks = started.ranks()
            return [self.rng.choice(ranks)] if ranks else [started.pid]

        return self._sent(how, log, self.rng.choice(SIGNALS), pick)

    def disk_full(self, how: str, log: Path) -> bool:
        """No file may grow beyond a limit: every checkpoint fails, wherever in it the limit falls."""
        started = self.start(how, log, CHAOS_FILE_SIZE=str(self.rng.randrange(20_000, 400_000)))
        return started.wait() != 0

    def second_job(self, how: str, log: Path) -> bool:
        """Another start in the folder of one that stands still: it is refused, and the first goes on undisturbed."""
        first = self.start(how, log)
        held = self.job.output / "lock.json"
        while not _holds(first, held) and first.code() is None:
            time.sleep(0.01)
        if hasattr(first, "ended"):
            return False
        ranks = first.ranks()
        first.send(signal.SIGSTOP, *ranks)
        other = log.with_name("second.txt")
        other.unlink(missing_ok=True)
        code = self.start(how, other).wait()
        first.send(signal.SIGCONT, *ranks)
        first.wait()
        words = other.read_text()
        if code == 0 or "is in use: training by process" not in words:
            raise AssertionError(f"two jobs in one folder: the second ended with {code}: {words[-500:]}")
        return True

    def bit_flip(self, how: str, log: Path) -> bool:
        """One bit of the newest checkpoint: the next start names the file, and goes on from the one before if asked."""
        pattern = "checkpoints/step_????????"
        if len(list(self.job.output.glob(pattern))) < 2:
            self.start(how, log, ["training.stop_after=5"]).wait()
        folders = sorted(self.job.output.glob(pattern))
        files = sorted(path for path in folders[-1].rglob("*") if path.is_file() and path.stat().st_size)
        victim = self.rng.choice(files)
        data = bytearray(victim.read_bytes())
        position = self.rng.randrange(len(data))
        data[position] ^= 1 << self.rng.randrange(8)
        os.chmod(victim, 0o644)
        victim.write_bytes(data)
        before = log.stat().st_size if log.exists() else 0
        code = self.start(how, log).wait()
        words = log.read_bytes()[before:].decode(errors="replace")
        if code == 0 or victim.name not in words:
            raise AssertionError(f"a flipped bit of {victim} was not named (exit {code}): {words[-500:]}")
        self.start(how, log, ["checkpoint.fallback=true"]).wait()
        return True


def newest(output: Path) -> int:
    """The step of the newest published checkpoint; 0: none."""
    folders = sorted((output / "checkpoints").glob("step_????????"))
    return int(folders[-1].name[5:]) if folders else 0


def _holds(started: Started, lock: Path) -> bool:
    """Whether the lock is of one of its ranks, and not what a killed job has left."""
    try:
        return json.loads(lock.read_text())["pid"] in started.ranks()
    except (OSError, ValueError):
        return False


KINDS = {
    "kill everything": Faults.kill_everything,
    "kill while saving": Faults.kill_while_saving,
    "kill launcher": Faults.kill_launcher,
    "kill one rank": Faults.kill_rank,
    "kill a worker": Faults.kill_worker,
    "kill at a point": Faults.kill_at_point,
    "signal to launcher": Faults.signal_launcher,
    "signal to all": Faults.signal_all,
    "signal to one rank": Faults.signal_rank,
    "disk full": Faults.disk_full,
    "two jobs": Faults.second_job,
    "bit flip": Faults.bit_flip,
}
KILLS = ("kill everything", "kill while saving", "kill launcher", "kill one rank", "kill at a point")
KILLS_OF_STREAMS = ("kill everything", "kill one rank", "kill while saving", "kill a worker", "kill a worker")
KILLS_AND_SIGNALS = (*KILLS, "signal to launcher", "signal to all", "signal to one rank")
