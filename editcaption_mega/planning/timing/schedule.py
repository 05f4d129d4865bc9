"""The pipeline as Megatron-Core 0.19.2 runs it: which forward and backward each stage executes in what order, and what
it sends, receives and waits for between them (`megatron.core.pipeline_parallel.schedules`, `.p2p_communication`).

A stage's program is a list of instructions: a `Work`, a `Post` of transfers (sends and receives that may begin now) and
a `Wait` for transfers to end. Those of one sender and one direction keep their order, so that a number names each, as
it does for Megatron's own receives.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Literal

from editcaption_mega.model.parallel.delayed_gradients import held_back

Kind = Literal["forward", "backward"]
WorkKind = Literal["forward", "backward", "gradients"]


@dataclass(frozen=True)
class Work:
    """The forward or backward pass of one micro-batch through one model chunk of a stage (both count from 0), or what
    makes its weight gradients where these are made later."""

    kind: WorkKind
    chunk: int
    micro_batch: int


@dataclass(frozen=True)
class Transfer:
    """An activation (forward) or its gradient (backward) on its way, the `number`-th of them that `sender` sends."""

    kind: Kind
    sender: int
    number: int


@dataclass(frozen=True)
class Post:
    """Sends and receives that the stage starts without waiting."""

    sends: tuple[Transfer, ...] = ()
    receives: tuple[Transfer, ...] = ()


@dataclass(frozen=True)
class Wait:
    """The stage goes on when these have ended, its own sends included."""

    transfers: tuple[Transfer, ...]


Instruction = Work | Post | Wait


def order(
    stage: int,
    stages: int,
    chunks: int,
    micro_batches: int,
    group_size: int | None = None,
    delayed: Sequence[int] | None = None,
) -> list[Work]:
    """What `stage` executes in one optimizer step, in order.

    chunks: model chunks per stage (virtual stages), 1 for the schedule that is not interleaved; group_size: Megatron's
    `microbatch_group_size_per_vp_stage`, by default `stages`; delayed: setting `parallel.delayed_weight_gradients`. One
    stage runs forward and backward in turn. Raises ValueError for sizes that Megatron refuses."""
    steps = instructions(stage, stages, chunks, micro_batches, group_size, delayed)
    return [step for step in steps if isinstance(step, Work)]


def instructions(
    stage: int,
    stages: int,
    chunks: int,
    micro_batches: int,
    group_size: int | None = None,
    delayed: Sequence[int] | None = None,
) -> list[Instruction]:
    """The program of `stage`; the arguments and errors of `order`."""
    group_size = stages if group_size is None else group_size
    check_sizes(stages, chunks, micro_batches, group_size)
    if not 0 <= stage < stages:
        raise ValueError(f"stage {stage} of {stages}: expected 0 to {stages - 1}")
    program = _Program(stage, stages)
    if stages == 1:
        for micro_batch in range(micro_batches):
            program.steps += [Work("forward", 0, micro_batch), Work("backward", 0, micro_batch)]
    elif chunks == 1:
        _one_forward_one_backward(program, micro_batches, None if stage == 0 or not delayed else delayed[stage])
    else:
        _interleaved(program, _Table(stage, stages, chunks, micro_batches, group_size))
    return program.steps


def check_sizes(stages: int, chunks: int, micro_batches: int, group_size: int) -> None:
    """ValueError with the mend where Megatron's schedules cannot run these sizes."""
    for name, count in (("stages", stages), ("chunks per stage", chunks), ("micro-batches", micro_batches)):
        if count < 1:
            raise ValueError(f"{count} {name}: expected at least 1")
    if chunks == 1:
        return
    if stages == 1:
        raise ValueError(f"{chunks} chunks on one stage: interleaving needs at least 2 stages, or 1 chunk")
    if not stages <= group_size <= micro_batches:
        raise ValueError(
            f"groups of {group_size} micro-batches, of {micro_batches} in all: the interleaved schedule of {stages} "
            f"stages needs groups of at least {stages} and at most all micro-batches"
        )
    if 0 < micro_batches % group_size < stages:
        raise ValueError(
            f"{micro_batches} micro-batches in groups of {group_size} leave {micro_batches % group_size}: the "
            f"interleaved schedule of {stages} stages needs a multiple of {group_size}, or a rest of at least {stages}"
        )


@dataclass
class _Program:
    """The instructions of a stage under construction; it numbers the transfers."""

    stage: int
    stages: int
    steps: list[Instruction] = field(default_factory=list)
    sent: dict[Kind, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})
    received: dict[Kind, int] = field(default_factory=lambda: {"forward": 0, "backward": 0})

    @property
    def is_first(self) -> bool:
        return self.stage == 0

    @property
    def is_last(self) -> bool:
        return self.stage == self.stages - 1

    def send(self, kind: Kind, wanted: bool = True) -> tuple[Transfer, ...]:
        if not wanted:
            return ()
        self.sent[kind] += 1
        return (Transfer(kind, self.stage, self.sent[kind] - 1),)

    def receive(self, kind: Kind, wanted: bool = True) -> tuple[Transfer, ...]:
        if not wanted:
            return ()
        self.received[kind] += 1
        sender = (self.stage + (-1 if kind == "forward" else 1)) % self.stages
        return (Transfer(kind, sender, self.received[kind] - 1),)

    def post(self, sends: tuple[Transfer, ...] = (), receives: tuple[Transfer, ...] = ()) -> None:
        if sends or receives:
            self.steps.append(Post(sends, receives))

    def wait(self, transfers: tuple[Transfer, ...]) -> None:
        if transfers:
            self.steps.append(Wait(transfers))

    def exchange(self, sends: tuple[Transfer, ...] = (), receives: tuple[Transfer, ...] = ()) -> None:
        """A call that returns when all is transferred."""
        self.post(sends, receives)
        self.wait(sends + receives)


def _one_forward_one_backward(program: _Program, micro_batches: int, delayed: int | None) -> None:
    """`forward_backward_pipelining_without_interleaving`: each call waits for what it sends and receives, with delayed
    weight gradients after it has made those that are due (`training.gradient_sends`)."""
    made = 0  # micro-batches with all their weight gradients

    def send_gradient(micro_batch: int, received: tuple[Transfer, ...] = ()) -> None:
        nonlocal made
        sent = program.send("backward", not_first)
        program.post(sent, received)
        done = micro_batch + 1
        if delayed is not None:
            due = done - held_back(program.stage, program.stages, micro_batches, done, delayed)
            program.steps += [Work("gradients", 0, number) for number in range(made, due)]
            made = max(made, due)
        program.wait(sent + received)

    warmup = min(program.stages - program.stage - 1, micro_batches)
    remaining = micro_batches - warmup
    not_first, not_last = not program.is_first, not program.is_last
    for micro_batch in range(warmup):
        program.exchange(receives=program.receive("forward", not_first))
        program.steps.append(Work("forward", 0, micro_batch))
        program.exchange(program.send("forward", not_last))
    if remaining:
        program.exchange(receives=program.receive("forward", not_first))
    for micro_batch in range(remaining):
        program.steps.append(Work("forward", 0, warmup + micro_batch))
        program.exchange(program.send("forward", not_last), program.receive("backward", not_last))
        program.steps.append(Work("backward", 0, micro_batch))
        send_gradient(micro_batch, program.receive("forward", not_first and micro_batch < remaining - 1))
    for micro_batch in range(remaining, micro_batches):
        program.exchange(receives=program.receive("backward", not_last))
        program.steps.append(Work("backward", 0, micro_batch))
        send_gradient(micro_batch)


@dataclass(frozen=True)
class _Table:
    """Megatron's table of the interleaved schedule: an iteration's chunk and micro-batch, what is received after it."""

    stage: int
    stages: int
    chunks: int
    micro_batches: int
    group_size: int

    @cached_property
    def entries(self) -> list[tuple[int, int]]:
        """(chunk, micro-batch) of each forward iteration."""
        groups = [
            range(first, min(first + self.group_size, self.micro_batches))
            for first in range(0, self.micro_batches, self.group_size)
        ]
        return [(chunk, micro_batch) for group in groups for chunk in range(self.chunks) for micro_batch in group]

    @property
    def warmup(self) -> int:
        """Forward passes before the first backward."""
        ahead = 2 * (self.stages - self.stage - 1) + (self.chunks - 1) * self.group_size
        return min(ahead, len(self.entries))

    def work(self, kind: Kind, iteration: int) -> Work:
        chunk, micro_batch = self.entries[iteration]
        return Work(kind, chunk if kind == "forward" else self.chunks - 1 - chunk, micro_batch)

    def is_end(self, work: Work) -> bool:
        """Nobody comes after: the last chunk in the forward direction, the first in the backward."""
        if work.kind == "forward":
            return self.stage == self.stages - 1 and work.chunk == self.chunks - 1
        return self.stage == 0 and work.chunk == 0

    def is_start(self, work: Work) -> bool:
        """Nobody comes before."""
        if work.kind == "forward":
            return self.stage == 0 and work.chunk == 0
        return self.stage == self.stages - 1 and work.chunk == self.chunks - 1

    def receives_after(self, kind: Kind, iteration: int) -> bool:
        """Whether a tensor is received after this iteration: Megatron's `recv_tensor_from_previous_stage`."""
        if self.stage != (0 if kind == "forward" else self.stages - 1):
            return True
        behind = iteration - (self.stages - 1)  # what the stage before it, at the other end of the pipeline, sends now
        last_chunk = self.chunks - 1 if kind == "forward" else 0
        return behind >= 0 and self.work(kind, behind).chunk != last_chunk


def _interleaved(program: _Program, table: _Table) -> None:
    """`forward_backward_pipelining_with_interleaving` with `overlap_p2p_comm`: in the steady phase a stage waits for
    what it receives when it needs it, and for what it sent one pass later; warm-up and cool-down wait at once."""
    total, warmup = len(table.entries), table.warmup
    receives: dict[Kind, list[tuple[Transfer, ...]]] = {"forward": [], "backward": []}  # posted, not waited for
    sends: dict[Kind, tuple[Transfer, ...]] = {"forward": (), "backward": ()}

    def steady(kind: Kind, iteration: int, receive: bool) -> None:
        work = table.work(kind, iteration)
        if not table.is_start(work) and receives[kind]:
            program.wait(receives[kind].pop(0))
        program.steps.append(work)
        sent, received = program.send(kind, not table.is_end(work)), program.receive(kind, receive)
        program.post(sent, received)
        program.wait(sends[kind])
        sends[kind] = sent
        if received:
            receives[kind].append(received)

    program.exchange(receives=program.receive("forward", not program.is_first))
    for iteration in range(warmup):
        work = table.work("forward", iteration)
        program.steps.append(work)
        receive = iteration < total - 1 and table.receives_after("forward", iteration)
        program.exchange(program.send("forward", not table.is_end(work)), program.receive("forward", receive))
    if warmup < total and not program.is_last:
        receives["backward"].append(program.receive("backward"))
        program.post(receives=receives["backward"][-1])
    for iteration in range(total - warmup):
        last = iteration == total - warmup - 1
        forward = warmup + iteration
        steady("forward", forward, not last and table.receives_after("forward", forward))
        steady("backward", iteration, table.receives_after("backward", iteration))
    if warmup == total:
        program.exchange(receives=program.receive("backward", not program.is_last))
    for iteration in range(total - warmup, total):
        work = table.work("backward", iteration)
        if not table.is_start(work) and iteration != 0 and receives["backward"]:
            program.wait(receives["backward"].pop(0))
        program.steps.append(work)
        receive = iteration < total - 1 and table.receives_after("backward", iteration)
        program.exchange(program.send("backward", not table.is_end(work)), program.receive("backward", receive))
    program.wait(sends["backward"])
