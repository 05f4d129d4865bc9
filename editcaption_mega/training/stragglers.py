"""Which rank the others wait for: each rank's own time in a step, before it waits for other data-parallel ranks.

A step takes equally long on all ranks, because they end it together. What tells them apart is how long a rank's own
passes take until its gradients are to be shared, and how long it waits for its own inputs. Ranks of one pipeline, and
those that divide a tensor or experts, wait for each other within the passes, so a slow machine shows as all of them.
"""

import socket
import statistics
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch

from editcaption_mega import phases, platform

EVERY = 16  # steps between two comparisons
LASTING = 3  # comparisons in a row: less is the noise of a busy machine
_LEAST = 0.05  # seconds of a step: less is noise


class _Moment:
    """A moment of the device's work (a CUDA event), or of the host's clock where the host computes."""

    def __init__(self) -> None:
        self.host = time.monotonic()
        self.event = torch.cuda.Event(enable_timing=True) if torch.cuda.is_available() else None
        if self.event is not None:
            self.event.record()

    def until(self, later: "_Moment") -> float:
        """Seconds. The host has waited for both by then."""
        if self.event is None or later.event is None:
            return later.host - self.host
        return float(self.event.elapsed_time(later.event)) / 1000


@dataclass(frozen=True)
class RankTime:
    """Of one rank, seconds per step: its own passes, and the wait for its own inputs."""

    rank: int
    host: str
    passes: float
    reading: float

    def __str__(self) -> str:
        return f"rank {self.rank} on {self.host}"


class _State:
    passed: _Moment | None = None


def passes_end() -> None:
    """This rank's gradients are there, and are shared with others from here on."""
    _State.passed = _Moment()


class Stragglers:
    """Measures the steps of a run. factor: a rank is named whose time is so many times the median, in `LASTING`
    comparisons in a row; 0: none is.

    say: takes the lines, on every rank."""

    def __init__(self, factor: float, say: Callable[[str], None]):
        self.factor, self.say = factor, say
        self._began = _Moment()
        self._passes, self._steps, self._reading = 0.0, 0, phases.reading_seconds()
        self._slow: dict[tuple[str, int], int] = {}  # (what, rank) -> in how many comparisons up to now
        self._named: set[tuple[str, int]] = set()

    def step_begins(self) -> None:
        self._began, _State.passed = _Moment(), None

    def step_ended(self) -> dict[str, Any]:
        """-> numbers for the step's record, at every `EVERY`-th step; then collective."""
        self._passes += self._began.until(_State.passed) if _State.passed else 0.0
        self._steps += 1
        if self._steps < EVERY:
            return {}
        reading = phases.reading_seconds()
        own = RankTime(
            platform.rank(), socket.gethostname(), self._passes / self._steps, (reading - self._reading) / self._steps
        )
        self._passes, self._steps, self._reading = 0.0, 0, reading
        times = platform.gather(own)
        for line in self._lines(times):
            self.say(line)
        slowest = max(times, key=lambda of_rank: of_rank.passes)
        median = statistics.median_low([of_rank.passes for of_rank in times])
        return {"slowest_rank": slowest.rank, "slowest_rank_seconds": slowest.passes, "median_rank_seconds": median}

    def _lines(self, times: Sequence[RankTime]) -> list[str]:
        """A line for each rank that has been slow for `LASTING` comparisons; once in a run."""
        lines = []
        slow = {}
        for what, words in (("passes", "its own passes"), ("reading", "its own data")):
            seconds = [getattr(of_rank, what) for of_rank in times]
            # Of two ranks, the other one's: a rank is not to be compared with itself.
            median = statistics.median_low(seconds)
            others = "the median of all ranks" if len(times) > 2 else "the other rank's"
            for of_rank, value in zip(times, seconds, strict=True):
                if not self.factor or value <= self.factor * median or value - median <= _LEAST:
                    continue
                key = (what, of_rank.rank)
                slow[key] = self._slow.get(key, 0) + 1
                if slow[key] >= LASTING and key not in self._named:
                    self._named.add(key)
                    lines.append(
                        f"slow: {of_rank} takes {value:.2f} s a step for {words}, {others} is {median:.2f} s "
                        f"(last {EVERY} steps; slow for {LASTING * EVERY})"
                    )
        self._slow = slow
        return lines
