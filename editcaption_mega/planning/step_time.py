"""From what was seen of each rank role to the time of a step: passes by the hardware's rates, put together by the
simulated pipeline."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from .dry_run.rank_step import RankRecord
from .dry_run.recorder import Phase
from .timing import beside
from .timing.cost import Communication, Operation, StreamTime, stream_time
from .timing.hardware import Hardware
from .timing.schedule import Work, WorkKind
from .timing.simulation import Timeline, simulate


@dataclass(frozen=True)
class Passes:
    """Seconds of one stage's passes, by chunk, and of what it does before and after the pipeline runs."""

    forward: tuple[StreamTime, ...]
    backward: tuple[StreamTime, ...]
    before: StreamTime  # inputs to the device
    after: StreamTime  # update, and what of the ranks' gradients and weights does not run beside the passes
    recomputed: float = 0.0  # of the backward passes' seconds, about those of what runs forward again
    reference: float = 0.0  # a resident reference's forward pass of one micro-batch
    transfer: float = 0.0  # of what it sends on
    gathers: tuple[tuple[beside.Gather, ...], ...] = ()  # that the first forward pass of each chunk waits for
    # That the last backward pass of each chunk begins, or the last micro-batch's gradients that are made later.
    reductions: tuple[tuple[beside.Reduction, ...], ...] = ()
    gradients: StreamTime = StreamTime(0.0)  # of weights, of one micro-batch, where the stage makes them later
    delayed: Sequence[int] | None = None  # then: setting parallel.delayed_weight_gradients

    @property
    def parts(self) -> tuple[StreamTime, ...]:
        """What one micro-batch takes."""
        return (*self.forward, *self.backward, self.gradients)

    def __str__(self) -> str:
        forward, backward = (sum(part.seconds for part in parts) for parts in (self.forward, self.backward))
        text = f"forward {1e3 * forward:.1f} ms, backward {1e3 * backward:.1f} ms"
        later = f", weight gradients behind it {1e3 * self.gradients.seconds:.1f} ms" if self.gradients.seconds else ""
        return f"{text}{later} per micro-batch"

    @property
    def ends_with(self) -> WorkKind:
        """After which work of the last micro-batch all gradients are there."""
        return "gradients" if self.gradients.seconds else "backward"

    @property
    def busy(self) -> float:
        """Seconds of one micro-batch through this stage."""
        return sum(time.seconds for time in self.parts)


@dataclass(frozen=True)
class StepTime:
    """A predicted step. Shares are of its seconds, on the stage that is busy longest."""

    seconds: float
    timeline: Timeline
    passes: tuple[Passes, ...]  # of each stage
    before: float
    after: float
    reference: float
    mfu: float  # language and vision together
    mfu_vision: float  # of it, the vision tower's part
    uncovered_gathers: float = 0.0  # seconds of the pipeline in which passes wait for weights from other ranks
    uncovered_reductions: float = 0.0  # of gradients to other ranks, behind the pipeline
    shares: dict[str, float] = field(default_factory=dict)

    @property
    def bubble(self) -> float:
        """Of the pipeline's time, the share that stages wait."""
        return self.timeline.bubble

    @property
    def imbalance(self) -> float:
        """The slowest stage's work over the mean."""
        busy = [stage.busy for stage in self.passes]
        return max(busy) / (sum(busy) / len(busy))


def predict(records: Sequence[RankRecord], hardware: Hardware, world_size: int, tensor_size: int) -> StepTime:
    """The time of the step that these rank roles were seen to execute. tensor_size: tensor-parallel ranks."""
    stages = sorted({record.coordinates["pipeline"] for record in records})
    passes = []
    for stage in stages:  # tensor-parallel ranks wait for the slowest
        of_stage = [passes_of(r, hardware) for r in records if r.coordinates["pipeline"] == stage]
        passes.append(max(of_stage, key=lambda times: times.busy))
    return assemble(
        passes, records[0].micro_batches, model_flops(records, world_size, tensor_size), hardware, world_size
    )


def assemble(
    passes: Sequence[Passes],
    micro_batches: int,
    model_flops: tuple[float, float],
    hardware: Hardware,
    world_size: int,
) -> StepTime:
    """A step of stages that take so long. model_flops: language's and vision's, of a step over all ranks."""
    timeline = _simulate(passes, micro_batches, waiting=True)
    before = max(stage.before.seconds for stage in passes)
    after = max(stage.after.seconds for stage in passes)
    # Forward passes alone: the pipeline fills, and the slowest stage runs through.
    references = [stage.reference for stage in passes]
    reference = sum(references) + (micro_batches - 1) * max(references)
    uncovered = max(0.0, _reduced(passes, timeline, micro_batches) - timeline.seconds)
    seconds = timeline.seconds + before + after + reference + uncovered
    language, vision = model_flops
    peak = seconds * world_size * hardware.peak_flops
    time = StepTime(
        seconds, timeline, tuple(passes), before, after, reference, (language + vision) / peak, vision / peak,
        timeline.seconds - _simulate(passes, micro_batches, waiting=False).seconds, uncovered,
    )  # fmt: skip
    return replace(time, shares=_shares(time, micro_batches))


def _simulate(passes: Sequence[Passes], micro_batches: int, *, waiting: bool) -> Timeline:
    """waiting: for weights that other ranks have updated."""

    def delay(stage: int, work: Work, start: float) -> float:
        last = work.kind == passes[stage].ends_with and work.micro_batch == micro_batches - 1
        if last and passes[stage].reductions:
            return sum(bucket.preparing for bucket in passes[stage].reductions[work.chunk])
        if not waiting or work.kind != "forward" or work.micro_batch or not passes[stage].gathers:
            return 0.0
        # A resident reference runs before, while the weights are gathered.
        return beside.delay(passes[stage].gathers[work.chunk], passes[stage].reference * micro_batches + start)

    forward = [[time.seconds for time in stage.forward] for stage in passes]
    backward = [[time.seconds for time in stage.backward] for stage in passes]
    transfers = [stage.transfer for stage in passes]
    gradients = [stage.gradients.seconds for stage in passes]
    delayed = passes[-1].delayed
    return simulate(
        forward, backward, micro_batches, transfer_seconds=transfers, gradients=gradients, delayed=delayed, delay=delay
    )


def _reduced(passes: Sequence[Passes], timeline: Timeline, micro_batches: int) -> float:
    """When the last gradients are reduced, in seconds of the pipeline."""
    ends = [0.0]
    for stage, slots in zip(passes, timeline.stages, strict=True):
        if stage.reductions:
            starts = {slot.work: slot.start for slot in slots}
            last = [starts[Work(stage.ends_with, chunk, micro_batches - 1)] for chunk in range(len(stage.backward))]
            ends.append(beside.reduced(zip(last, stage.reductions, strict=True)))
    return max(ends)


def passes_of(record: RankRecord, hardware: Hardware) -> Passes:
    """A rank's passes in seconds."""
    first: dict[tuple[str, int], Phase] = {}
    last: dict[tuple[str, int], Phase] = {}
    for phase in record.phases:
        first.setdefault((phase.kind, phase.chunk), phase)
        last[phase.kind, phase.chunk] = phase  # the last: every later one is like it
    chunks = sorted(chunk for kind, chunk in last if kind == "forward")
    times = {key: stream_time(phase.steps, hardware) for key, phase in last.items() if key[0] != "step"}
    between = [phase for phase in record.phases if phase.kind == "step"]
    sends = [
        step.seconds(hardware)
        for phase in between
        for step in phase.steps
        if isinstance(step, Communication) and step.kind == "send"
    ]
    gradients = last.get(("gradients", 0), Phase("gradients"))
    begun = between[0].steps
    ends = beside.through(begun, last["forward", chunks[0]].steps, hardware)
    return Passes(
        forward=tuple(times["forward", chunk] for chunk in chunks),
        backward=tuple(times["backward", chunk] for chunk in chunks),
        before=stream_time(_without_transfers(between[0]), hardware),
        after=stream_time(_without_transfers(between[-1]), hardware),
        gradients=times.get(("gradients", 0), StreamTime(0.0)),
        delayed=record.delayed,
        reference=sum(time.seconds for (kind, _), time in times.items() if kind == "reference"),
        recomputed=sum(_recomputed(last["backward", chunk], times["backward", chunk]) for chunk in chunks),
        transfer=max(sends, default=0.0),
        gathers=tuple(beside.gathers(first["forward", chunk].steps, ends, hardware) for chunk in chunks),
        reductions=tuple(
            beside.reductions(last["backward", chunk].steps, hardware, behind=gradients.steps) for chunk in chunks
        ),
    )


def _recomputed(phase: Phase, time: StreamTime) -> float:
    flops = sum(getattr(step, "flops", 0) for step in phase.steps)
    return time.seconds * phase.recomputed_flops / flops if flops else 0.0


def _without_transfers(phase: Phase) -> list[Operation | Communication]:
    return [step for step in phase.steps if step.kind not in ("send", "recv")]


def model_flops(records: Sequence[RankRecord], world_size: int, tensor_size: int) -> tuple[float, float]:
    """Of a step over all ranks, language and vision: without padding and recompute, as many times what forward takes as
    `model.flops.passes` says."""
    language = vision = 0.0
    stages = len({record.coordinates["pipeline"] for record in records})
    seen: set[int] = set()
    for record in sorted(records, key=lambda record: -record.patches):
        stage = record.coordinates["pipeline"]
        if stage in seen:
            continue  # a role of the same stage with fewer pictures
        seen.add(stage)
        forward = {phase.chunk: phase for phase in record.phases if phase.kind == "forward"}
        flops = sum(sum(getattr(step, "flops", 0) for step in phase.steps) for phase in forward.values())
        own = sum(phase.vision_flops for phase in forward.values())
        ranks = world_size // stages
        filled = record.tokens / (record.row_length * record.micro_batches)
        of_language, of_vision = record.passes
        language += of_language * (flops - own) * record.micro_batches * ranks * filled
        if record.patches:  # tensor-parallel ranks have other pictures, together all of the row
            rows = record.micro_batches * ranks / tensor_size
            vision += of_vision * own * rows * record.patches_of_rows / record.patches
    return language, vision


def _shares(time: StepTime, micro_batches: int) -> dict[str, float]:
    """What the busiest stage's step consists of, largest first."""
    stage = max(range(len(time.passes)), key=lambda i: time.passes[i].busy)
    passes = time.passes[stage]
    seconds: dict[str, float] = {"waiting for other stages": time.timeline.idle[stage] * time.timeline.seconds}
    for part in passes.parts:
        for kind, value in part.by_kind.items():
            seconds[_LABELS.get(kind, kind)] = seconds.get(_LABELS.get(kind, kind), 0.0) + value * micro_batches
        waited = (part.seconds - sum(part.by_kind.values())) * micro_batches
        seconds["waiting for the host"] = seconds.get("waiting for the host", 0.0) + waited
    seconds["inputs to the device"] = seconds.get("inputs to the device", 0.0) + time.before
    seconds["gradients over ranks and update"] = time.after
    seconds["gradients that no pass covers"] = time.uncovered_reductions
    seconds["weights that no pass covers"] = time.uncovered_gathers
    seconds["reference's forward pass"] = time.reference
    # Of gradients whose reduction begins late, and of weights that are late on another stage.
    seconds["delays between passes"] = max(0.0, time.seconds - sum(seconds.values()))
    ordered = sorted(seconds.items(), key=lambda item: -item[1])
    return {name: value / time.seconds for name, value in ordered if value > 1e-9 * time.seconds}


_LABELS = {
    "matmul": "dense products",
    "matmul_fp32": "dense products in fp32",
    "grouped": "expert products",
    "attention": "attention",
    "attention_backward": "attention",
    "copy": "elementwise and copies",
    "host_copy": "inputs to the device",
    "all_gather": "tensor-parallel communication",
    "reduce_scatter": "tensor-parallel communication",
    "all_reduce": "tensor-parallel communication",
    "all_to_all": "all-to-all of experts and pictures",
}
