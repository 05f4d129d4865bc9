"""The clock of a pipeline: when each pass of each stage begins and ends, with what the stages wait for.

Exact for given times: every stage follows its program of instructions (`schedule`); a transfer begins when both ends
have posted it, as NCCL's and gloo's large ones do, and a stage that waits for it stands still until it has ended.
Transfers never wait for each other: NCCL orders those of a pair of ranks, which changes no step of 3,000 random
pipelines by more than 3 %, and none where transfers are short beside passes.
"""

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from .schedule import Instruction, Post, Transfer, Work, check_sizes, instructions

Seconds = float | Sequence[float]  # of a pass: alike for all micro-batches, or of each


@dataclass(frozen=True)
class Slot:
    """A pass with its beginning and end in seconds after the step's beginning."""

    work: Work
    start: float
    end: float


@dataclass(frozen=True)
class Timeline:
    """A simulated step: its length in seconds, and what each stage did."""

    seconds: float
    stages: tuple[tuple[Slot, ...], ...]

    @property
    def idle(self) -> tuple[float, ...]:
        """Per stage the share of the step in which it computes nothing: it waits for others or for a transfer."""
        busy = [sum(slot.end - slot.start for slot in slots) for slots in self.stages]
        return tuple(1 - seconds / self.seconds if self.seconds else 0.0 for seconds in busy)

    @property
    def bubble(self) -> float:
        """The mean of `idle`: the share of the whole pipeline's time that is lost."""
        return sum(self.idle) / len(self.idle)


def simulate(
    forward: Sequence[Sequence[Seconds]],
    backward: Sequence[Sequence[Seconds]],
    micro_batches: int,
    *,
    transfer_seconds: float | Sequence[float] = 0.0,
    group_size: int | None = None,
    gradients: Sequence[Seconds] = (),
    delayed: Sequence[int] | None = None,
    delay: Callable[[int, Work, float], float] = lambda stage, work, start: 0.0,
) -> Timeline:
    """One optimizer step of a pipeline of `len(forward)` stages, as Megatron-Core runs it.

    forward, backward: seconds of a pass, [stage][chunk], each a number or one per micro-batch; the chunks per stage
    choose the schedule (1: not interleaved). transfer_seconds: of one tensor to a neighbor, or one number per link, the
    s-th between stage s and the next (the last: back to stage 0, for interleaving). group_size: see `schedule.order`.
    gradients, delayed: seconds of the weight gradients of a micro-batch where stages make them later, [stage], and of
    how many micro-batches they may wait (setting `parallel.delayed_weight_gradients`); the first stage has none.
    delay: seconds by which a pass of a stage that begins then is longer.
    Raises ValueError where counts do not match or Megatron refuses the schedule."""
    stages = len(forward)
    chunks = _count_chunks(forward, backward)
    check_sizes(stages, chunks, micro_batches, stages if group_size is None else group_size)
    passes = {}
    for stage in range(stages):
        for chunk in range(chunks):
            for micro_batch in range(micro_batches):
                for work, table in (
                    (Work("forward", chunk, micro_batch), forward),
                    (Work("backward", chunk, micro_batch), backward),
                ):
                    passes[stage, work] = _seconds(table[stage][chunk], micro_batch, micro_batches)
        if delayed is not None and stage:
            for micro_batch in range(micro_batches):
                work = Work("gradients", 0, micro_batch)
                passes[stage, work] = _seconds(gradients[stage], micro_batch, micro_batches)
    links = [transfer_seconds] * stages if isinstance(transfer_seconds, (int, float)) else list(transfer_seconds)
    if len(links) != stages:
        raise ValueError(f"transfer_seconds has {len(links)} links: expected {stages}, one after each stage")
    waiting = tuple(delayed) if delayed else None
    programs = [_program(stage, stages, chunks, micro_batches, group_size, waiting) for stage in range(stages)]
    return _run(programs, passes, _Transfers(links), delay)


@lru_cache(maxsize=1024)
def _program(*sizes: Any) -> list[Instruction]:
    """Pipelines of the same sizes run the same programs."""
    return instructions(*sizes)


def _count_chunks(*tables: Sequence[Sequence[Seconds]]) -> int:
    counts = {len(chunks) for table in tables for chunks in table}
    if len(counts) != 1 or len({len(table) for table in tables}) != 1:
        raise ValueError(
            f"forward and backward seconds have {[[len(chunks) for chunks in table] for table in tables]} chunks per "
            "stage: expected one number of stages and one of chunks"
        )
    return counts.pop()


def _seconds(seconds: Seconds, micro_batch: int, micro_batches: int) -> float:
    if isinstance(seconds, (int, float)):
        return seconds
    if len(seconds) != micro_batches:
        raise ValueError(f"{len(seconds)} seconds of passes for {micro_batches} micro-batches: expected one of each")
    return seconds[micro_batch]


@dataclass
class _Transfers:
    """When each transfer ends, as far as that is known."""

    links: list[float]
    posted: dict[Transfer, list[float]] = field(default_factory=lambda: defaultdict(list))  # at its ends, in seconds

    def post(self, transfers: tuple[Transfer, ...], now: float) -> None:
        for transfer in transfers:
            self.posted[transfer].append(now)

    def end(self, transfer: Transfer) -> float | None:
        """Seconds, or None as long as an end has not posted it."""
        if len(self.posted[transfer]) < 2:
            return None
        link = transfer.sender if transfer.kind == "forward" else transfer.sender - 1
        return max(self.posted[transfer]) + self.links[link]


def _run(
    programs: list[list[Instruction]],
    passes: dict[tuple[int, Work], float],
    transfers: _Transfers,
    delay: Callable[[int, Work, float], float],
) -> Timeline:
    """Each stage as far as it comes, again and again: what one waits for, another has yet to post."""
    clocks, places = [0.0] * len(programs), [0] * len(programs)
    slots: list[list[Slot]] = [[] for _ in programs]

    def step(stage: int, instruction: Instruction) -> bool:
        now = clocks[stage]
        if isinstance(instruction, Work):
            clocks[stage] = now + passes[stage, instruction] + delay(stage, instruction, now)
            slots[stage].append(Slot(instruction, now, clocks[stage]))
        elif isinstance(instruction, Post):
            transfers.post(instruction.sends + instruction.receives, now)
        else:
            ends = [transfers.end(transfer) for transfer in instruction.transfers]
            if None in ends:
                return False
            clocks[stage] = max(now, *(end for end in ends if end is not None))
        return True

    while any(place < len(program) for place, program in zip(places, programs, strict=True)):
        before = list(places)
        for stage, program in enumerate(programs):
            while places[stage] < len(program) and step(stage, program[places[stage]]):
                places[stage] += 1
        assert places != before, "the stages wait for each other"
    return Timeline(max(clocks), tuple(map(tuple, slots)))
