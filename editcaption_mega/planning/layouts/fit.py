"""Memory of each stage and the time of a step of any layout, put together from the costs of pieces: an answer in
milliseconds where the pieces are known."""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Protocol

from editcaption_mega.data.batching.packing import RankShare
from editcaption_mega.model import Architecture
from editcaption_mega.model.layout_check import check_layout
from editcaption_mega.model.pipeline_split import feature_routes, split_layers
from editcaption_mega.settings import JobSettings, ParallelSettings

from ..layer_adapters import layer_adapters
from ..step_time import Passes, StepTime, assemble
from ..timing.beside import even_gathers, even_reductions
from ..timing.cost import StreamTime
from ..timing.hardware import Hardware
from ..timing.moments import moments
from ..workload import Workload, packer_of, samples
from .pieces import Costs, Pieces, Ranks, Recompute, StagePart, StagePiece

GIB = 2**30


@dataclass(frozen=True)
class Rows:
    """The packed sequences of a data-parallel rank in a step."""

    micro_batches: int
    samples: int  # of the fullest
    length: int  # tokens, padding included
    filled: float  # share of the tokens that is no padding


@dataclass(frozen=True)
class Run:
    """Layers of one chunk that follow each other and are recomputed alike."""

    costs: Costs
    count: int


@dataclass(frozen=True)
class Chunk:
    """What one model chunk costs. Peaks are bytes above what is held where the pass begins."""

    total: StagePart
    forward_peak: float
    backward_peak: float
    gradients_peak: float = 0.0

    def at_once(self) -> "Chunk":
        return replace(self, total=self.total.at_once(), gradients_peak=0.0)


@dataclass(frozen=True)
class StageMemory:
    """Bytes of one pipeline stage where it needs the most."""

    states: float  # weights, gradients, optimizer, reference
    inputs: float
    activations: float  # of micro-batches in flight, and what the pass at the peak takes; or the update's temporaries
    reserved: float  # context, NCCL, what the allocator cannot hand out
    outside_step: float = 0.0  # beside the states, at the most that the start or a checkpoint takes

    @property
    def peak(self) -> float:
        """Of tensors, in a step."""
        return self.states + self.inputs + self.activations

    @property
    def beyond_step(self) -> float:
        """By which the start or a checkpoint takes more than the step; 0 where neither does."""
        return max(0.0, self.states + self.outside_step - self.peak)

    @property
    def needed(self) -> float:
        return self.peak + self.beyond_step + self.reserved


@dataclass(frozen=True)
class Fit:
    """A layout: whether it fits, and how fast it is."""

    settings: JobSettings
    world_size: int
    counts: tuple[int, ...]  # layers of each chunk along the network
    rows: Rows
    stages: tuple[StageMemory, ...]
    time: StepTime
    memory_gib: float  # of a GPU

    @property
    def worst(self) -> int:
        """The stage that needs the most memory."""
        return max(range(len(self.stages)), key=lambda stage: self.stages[stage].needed)

    @property
    def headroom(self) -> float:
        """The share of the GPU's memory that is left on the worst stage; below 0 where it does not fit."""
        return 1 - self.stages[self.worst].needed / (self.memory_gib * GIB)

    @property
    def pairs_per_second(self) -> float:
        return self.settings.training.global_batch_size / self.time.seconds


def fit(pieces: Pieces, settings: JobSettings, world_size: int, *, memory_gib: float | None = None) -> Fit:
    """What the layout of `settings` needs. Pieces that it lacks are executed first.

    Raises ValueError for settings that do not fit the model, the ranks or the batch."""
    check_layout(pieces.architecture, settings.parallel)
    layer_adapters(settings, pieces.architecture)
    ranks = ranks_of(settings.parallel, world_size)
    rows = rows_of(settings, pieces.architecture, pieces.workload, world_size)
    pieces.execute(needed_pieces(settings, ranks, rows))
    return Assembly(pieces, settings, ranks, rows).fit(world_size, memory_gib)


class KnownCosts(Protocol):
    """Costs by `[piece]`: `Pieces`, or what answers alike."""

    architecture: Architecture
    hardware: Hardware

    def __getitem__(self, piece: StagePiece) -> Costs: ...


class Assembly:
    """Stages of one layout from the costs of its pieces. Splits of the layers may change between calls."""

    def __init__(self, pieces: KnownCosts, settings: JobSettings, ranks: Ranks, rows: Rows) -> None:
        self.settings, self.rows, self.ranks, self.pieces = settings, rows, ranks, pieces
        first, kinds, last = needed_by_place(settings, ranks, rows)
        self.first, self.last = pieces[first[0]], pieces[last[0]]
        self.kinds = [pieces[piece] for piece in kinds]
        self._chunks: dict[tuple[bool, bool, int, int], Chunk] = {}

    def chunk(self, count: int, *, first: bool, last: bool, again: int) -> Chunk:
        """A chunk of so many layers. again: the most of them that are recomputed where only some are."""
        key = (first, last, count, again)
        if key not in self._chunks:
            runs = _runs(self.kinds, count, again)
            head, tail = self.first if first else None, self.last if last else None
            if tail is not None and first and self.pieces.architecture.tied_embeddings:
                tail = Costs(tail.each.without_weights(), tail.alone)
            transfer = 0.0 if first and last else self.kinds[-1].alone.transfer
            self._chunks[key] = chunk_of(head, runs, tail, transfer=transfer)
        return self._chunks[key]

    def stages(self, counts: Sequence[int], again: int) -> list[list[Chunk]]:
        """The chunks of each stage. counts: layers of each chunk along the network."""
        stages: list[list[Chunk]] = [[] for _ in range(self.settings.parallel.pipeline_model_parallel_size)]
        for c, count in enumerate(counts):
            chunk = self.chunk(count, first=c == 0, last=c == len(counts) - 1, again=again)
            # The first stage sends nothing on, and makes all its gradients in the backward pass.
            stages[c % len(stages)].append(chunk if c % len(stages) else chunk.at_once())
        return stages

    def memory(
        self, stages: Sequence[Sequence[Chunk]], world_size: int, parallel: ParallelSettings
    ) -> tuple[StageMemory, ...]:
        hardware = self.pieces.hardware
        return tuple(
            stage_memory(chunks, parallel, stage, self.rows.micro_batches, hardware, world_size)
            for stage, chunks in enumerate(stages)
        )

    def fit(self, world_size: int, memory_gib: float | None, settings: JobSettings | None = None) -> Fit:
        """For the split, the delays and the number of recomputed layers that the settings say; by default those of the
        layout."""
        settings = settings or self.settings
        rows, hardware = self.rows, self.pieces.hardware
        architecture = self.pieces.architecture
        counts = split_layers(architecture.num_layers, settings.parallel)
        stages = self.stages(counts, settings.model.recompute_num_layers)
        totals = [chunk.total for chunks in stages for chunk in chunks]
        per_stage = rows.micro_batches * self.ranks.size
        language = sum(part.language_flops for part in totals) * per_stage * rows.filled
        vision = sum(part.vision_flops for part in totals) * per_stage
        routes = feature_routes(counts, len(architecture.vision.deepstack_layers))
        passes = [
            replace(
                passes_of_stage(chunks, slots=1 + max(route.sent for route in routes[stage :: len(stages)])),
                delayed=settings.parallel.delayed_weight_gradients,
            )
            for stage, chunks in enumerate(stages)
        ]
        time = assemble(passes, rows.micro_batches, (language, vision), hardware, world_size)
        gib = hardware.memory_gib if memory_gib is None else memory_gib
        memory = self.memory(stages, world_size, settings.parallel)
        return Fit(settings, world_size, tuple(counts), rows, memory, time, gib)


def needed_by_place(
    settings: JobSettings, ranks: Ranks, rows: Rows
) -> tuple[list[StagePiece], list[StagePiece], list[StagePiece]]:
    """Pieces of the first stage's own work, of layers (recomputed ones first), of the last stage's own work."""
    model = settings.model
    row = (rows.samples, settings.data.sequence_length)
    ends = (Ranks(ranks.size, ranks.tensor, 1, ranks.tensor), *row)  # no experts there
    vision = model.recompute == "full" if model.recompute_vision is None else model.recompute_vision
    recomputes = [Recompute(model.recompute, tuple(sorted(model.recompute_modules)), model.recompute_num_layers)]
    if model.recompute == "full" and model.recompute_method == "block":
        recomputes = [Recompute("full"), Recompute()]
    delayed = settings.parallel.delayed_weight_gradients is not None
    layers = [StagePiece("layers", ranks, *row, recompute, delayed=delayed) for recompute in recomputes]
    return [StagePiece("first", *ends, vision=vision)], layers, [StagePiece("last", *ends)]


def needed_pieces(settings: JobSettings, ranks: Ranks, rows: Rows) -> list[StagePiece]:
    return [piece for place in needed_by_place(settings, ranks, rows) for piece in place]


def ranks_of(parallel: ParallelSettings, world_size: int) -> Ranks:
    """Raises ValueError where the layout does not divide the world."""
    parallel.data_parallel_size(world_size)
    tensor = parallel.tensor_model_parallel_size
    return Ranks(
        world_size // parallel.pipeline_model_parallel_size,
        tensor,
        parallel.expert_model_parallel_size,
        parallel.expert_tensor_parallel_size or tensor,
    )


def rows_of(settings: JobSettings, architecture: Architecture, workload: Workload, world_size: int) -> Rows:
    """As the loader's own code packs them. Raises ValueError for a batch that is too small for the ranks."""
    from editcaption_mega.training.setup import length_multiple

    parallel = settings.parallel
    share = RankShare(
        data_parallel_size=parallel.data_parallel_size(world_size),
        sequence_multiple=parallel.sequence_multiple,
        length_multiple=length_multiple(parallel, on_gpu=True),
        with_images=False,
    )
    lengths = [sample.num_tokens for sample in samples(settings, architecture, workload)]
    plan = packer_of(settings, architecture, share).plan(lengths)
    count, fullest = len(plan.sequences), max(len(sequence) for sequence in plan.sequences)
    tokens = sum(lengths[i] for sequence in plan.sequences for i in sequence)
    return Rows(count, fullest, plan.length, tokens / (count * plan.length))


def _runs(kinds: Sequence[Costs], count: int, again: int) -> list[Run]:
    """The layers of a chunk: with `recompute_method: block` the first ones alone are recomputed."""
    if len(kinds) == 1:
        return [Run(kinds[0], count)] if count else []
    again = min(again, count)
    return [Run(*run) for run in ((kinds[0], again), (kinds[1], count - again)) if run[1]]


def chunk_of(first: Costs | None, runs: Sequence[Run], last: Costs | None, *, transfer: float = 0.0) -> Chunk:
    """A chunk from what lies in it. transfer: seconds of what it sends on.

    Where first and last are one chunk, nothing is exchanged between stages."""
    alone = first is not None and last is not None
    total = StagePart()
    inside: list[tuple[float, float, float]] = []  # retained bytes, and the peaks of its last layer
    for costs in (first, last):
        if costs is not None:
            total = total.plus(costs.each)
            if alone:
                total = total.plus(StagePart(after=StreamTime(costs.each.between_stages)), -1)
    if first is not None:
        inside.append((first.each.retained, first.alone.forward_peak, first.alone.backward_peak))
    for run in runs:
        total = total.plus(run.costs.each, run.count)
        single, retained = run.costs.alone, run.costs.each.retained
        if run.count > 1:
            inside.append(((run.count - 1) * retained, 0.0, 0.0))
        inside.append((retained, single.forward_peak, single.backward_peak))
    if first is None and last is None and runs:  # what a stage between others has beside its layers
        total = total.plus(_beside(runs[0].costs))
    if last is not None:
        inside.append((last.each.retained, last.alone.forward_peak, last.alone.backward_peak))
    inputs = max((costs.each.inputs for costs in (first, last) if costs is not None), default=total.inputs)
    total = replace(total, inputs=inputs, transfer=transfer)
    held = forward = backward = 0.0
    for retained, peak, _ in inside:
        forward = max(forward, held + peak)
        held += retained
    freed = 0.0
    for retained, _, peak in reversed(inside):
        backward = max(backward, peak - freed)
        freed += retained
    made_later = max((run.costs.alone.gradients_peak for run in runs), default=0.0)
    return Chunk(total, max(forward, total.retained), backward, made_later)


def _beside(costs: Costs) -> StagePart:
    """Of one executed stage, what is not its layers'."""
    layers = round(costs.alone.parameters / costs.each.parameters) if costs.each.parameters else 1
    return costs.alone.plus(costs.each, -layers)


def stage_memory(
    chunks: Sequence[Chunk],
    parallel: ParallelSettings,
    stage: int,
    micro_batches: int,
    hardware: Hardware,
    world_size: int,
) -> StageMemory:
    """The most that a stage holds while it runs its schedule."""
    stages = parallel.pipeline_model_parallel_size
    states = sum(chunk.total.states for chunk in chunks)
    inputs = max(chunk.total.inputs for chunk in chunks) * micro_batches
    activations = sum(chunk.total.update for chunk in chunks)
    delayed = tuple(parallel.delayed_weight_gradients or ()) or None
    for kind, c, flying in moments(stage, stages, len(chunks), min(micro_batches, 3 * stages), delayed):
        *counts, waiting = flying
        held = sum(count * chunk.total.retained for count, chunk in zip(counts, chunks, strict=True))
        held += waiting * chunks[0].total.waiting
        peaks = chunks[c].forward_peak, chunks[c].backward_peak, chunks[c].gradients_peak
        own = peaks[("forward", "backward", "gradients").index(kind)]
        activations = max(activations, held + own)
    peak = states + inputs + activations
    reserved = hardware.reserve_gib(ranks=world_size, all_to_all=parallel.expert_model_parallel_size > 1) * GIB
    outside = max(sum(chunk.total.start for chunk in chunks), sum(chunk.total.checkpoint for chunk in chunks))
    reserved += hardware.reserve.allocator_share * peak
    return StageMemory(states, inputs, activations, reserved, outside)


def passes_of_stage(chunks: Sequence[Chunk], *, slots: int = 1) -> Passes:
    """Seconds of a stage's passes. slots: tensors of one size in what it sends on (hidden states and features)."""
    total = StagePart()
    for chunk in chunks:
        total = total.plus(chunk.total)
    return Passes(
        forward=tuple(chunk.total.forward for chunk in chunks),
        backward=tuple(chunk.total.backward for chunk in chunks),
        gradients=total.made_later,
        before=total.before,
        after=total.after,
        recomputed=total.recomputed,
        reference=total.reference,
        transfer=slots * max(chunk.total.transfer for chunk in chunks),
        gathers=even_gathers([(chunk.total.forward.seconds, chunk.total.gathers) for chunk in chunks]),
        reductions=even_reductions(
            [
                ((chunk.total.made_later.seconds or chunk.total.backward.seconds), chunk.total.reductions)
                for chunk in chunks
            ]
        ),
    )
