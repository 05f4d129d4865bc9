"""Communication that runs beside compute: gathers of weights that the first passes of a step wait for, and reductions
of gradients that begin in its last ones.

A rank sends all of it over one port, one after another in the order in which it begins. What a pass communicates in
order goes before: the rest has the share of the link that this leaves.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from .cost import Communication, Operation, stream_time
from .hardware import Hardware

Steps = Sequence[Operation | Communication]
_SLICES = 8  # of a pass where its buckets are not known


class Gather(NamedTuple):
    """A wait for weights."""

    at: float  # seconds of the pass before it
    through: float  # when the link has them, in seconds after the first gather began


class Reduction(NamedTuple):
    """Gradients of a bucket."""

    at: float  # seconds of the pass before the last of them is there
    seconds: float  # of the link
    preparing: float = 0.0  # seconds of the GPU before, in the pass: they are scaled


def through(started: Steps, beside: Steps, hardware: Hardware) -> dict[int, float]:
    """When each communication of `started` ends, by handle, where a pass like `beside` runs meanwhile."""
    ends, now = {}, 0.0
    for step in started:
        if isinstance(step, Communication) and step.handle:
            now += _seconds(step, beside, hardware)
            ends[step.handle] = now
    return ends


def gathers(forward: Steps, ends: Mapping[int, float], hardware: Hardware) -> tuple[Gather, ...]:
    """What a pass waits for."""
    waits = ((at, step) for at, step in _marks(forward, hardware) if step.kind == "wait")
    return tuple(Gather(at, ends[step.handle]) for at, step in waits if step.handle in ends)


def reductions(backward: Steps, hardware: Hardware, behind: Steps = ()) -> tuple[Reduction, ...]:
    """What a pass begins. behind: what makes its weight gradients later, if that is so; what the pass itself begins is
    then taken to begin with it, and does so a little before."""
    begun, preparing = [], 0.0
    marks = [(0.0 if behind else at, step) for at, step in _marks(backward, hardware)]
    for at, step in [*marks, *_marks(behind, hardware)]:
        if isinstance(step, Communication):
            begun.append(Reduction(at, _seconds(step, behind or backward, hardware), preparing))
            preparing = 0.0
        elif step.kind != "wait":
            preparing += step.seconds(hardware)
    return tuple(begun)


def delay(waits: Iterable[Gather], start: float) -> float:
    """Seconds by which a pass that begins so long after the first gather is longer for its waits."""
    return max((wait.through - wait.at - start for wait in waits if wait.through > wait.at + start), default=0.0)


def reduced(passes: Iterable[tuple[float, Sequence[Reduction]]]) -> float:
    """When the last reduction ends. passes: when each begins, and what it reduces."""
    end = 0.0
    begun = sorted((start + bucket.at, bucket.seconds) for start, buckets in passes for bucket in buckets)
    for ready, seconds in begun:
        end = max(end, ready) + seconds
    return end


def even_gathers(passes: Sequence[tuple[float, float]]) -> tuple[tuple[Gather, ...], ...]:
    """Of chunks whose weights are needed evenly over the pass. passes: seconds of each, and of the link."""
    chunks, before = [], 0.0
    for seconds, link in passes:
        slices = range(_SLICES)
        chunks.append(tuple(Gather(seconds * i / _SLICES, before + link * (i + 1) / _SLICES) for i in slices))
        before += link
    return tuple(chunks)


def even_reductions(passes: Sequence[tuple[float, float]]) -> tuple[tuple[Reduction, ...], ...]:
    """Of chunks whose gradients come evenly over the pass, likewise."""
    slices = range(1, _SLICES + 1)
    return tuple(tuple(Reduction(seconds * i / _SLICES, link / _SLICES) for i in slices) for seconds, link in passes)


def _marks(steps: Steps, hardware: Hardware) -> list[tuple[float, Operation | Communication]]:
    marks: list[tuple[float, Operation | Communication]] = []
    stream_time(steps, hardware, marks)
    return marks


def _seconds(communication: Communication, beside: Steps, hardware: Hardware) -> float:
    """With the share of its link that the pass beside it leaves."""
    link, total = communication.link(hardware), stream_time(beside, hardware).seconds
    taken = sum(
        step.seconds(hardware)
        for step in beside
        if isinstance(step, Communication) and not step.handle and step.link(hardware) == link
    )
    return communication.seconds(hardware) / max(0.1, 1 - taken / total) if total else communication.seconds(hardware)
