"""Where this process is in its job: written by what works, read by the watchdog's thread."""

import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

HEARTBEATS = "heartbeats"  # the folder, in the run's logs, where each rank of the present start says its place
SETUP = "setup"  # to the end of the first step
DATA = "data"  # this rank makes the inputs of a step
OTHERS = "data of other ranks"
STEP = "step"
SAVE = "save"
SCORING = "log-probs"  # a batch of them


@dataclass(frozen=True)
class Place:
    phase: str
    step: int  # of the job, from 1; 0 before the first
    mark: int  # how many phases this process has entered: all ranks enter the same ones in the same order
    since: float  # time.monotonic


class _State:
    place = Place(SETUP, 0, 0, time.monotonic())
    reading = 0.0  # seconds, of all data phases


def begin() -> None:
    """A job begins in this process."""
    _State.place, _State.reading = Place(SETUP, 0, 0, time.monotonic()), 0.0


def enter(phase: str, step: int | None = None) -> None:
    """step: None for the same as before."""
    before = _State.place
    _State.place = Place(phase, before.step if step is None else step, before.mark + 1, time.monotonic())


def place() -> Place:
    return _State.place


def reading_seconds() -> float:
    """How long this rank has waited for inputs of its own since the job began."""
    return _State.reading


def read[Item](items: Iterable[Item], done: int) -> Iterator[Item]:
    """The inputs of steps, marked as this rank's own wait; `done` steps are behind. The first belongs to the setup."""
    source = iter(items)
    step, phase, after = done + 1, SETUP, SETUP
    while True:
        enter(phase, step)
        began = time.monotonic()
        try:
            item = next(source)
        except StopIteration:
            return
        _State.reading += time.monotonic() - began
        enter(after)
        yield item
        step, phase, after = step + 1, DATA, OTHERS
