"""What one layer, the first stage's own work and the last stage's own work cost: from executing stages of few layers.

A stage of any length is then a sum (`fit`), so that thousands of layouts are compared for a few executions. What is
executed is a stage of a pipeline of three, in the middle of which lie all layers: its first stage is the embedding and
the vision tower alone, its last the LM head and the loss. Two lengths of the middle give a layer by their difference.
"""

import gc
from collections import defaultdict
from collections.abc import Iterable, Sequence
from concurrent.futures import as_completed
from dataclasses import dataclass, field, fields, replace
from typing import Any, Literal

from editcaption_mega.model import Architecture
from editcaption_mega.process_pool import ProcessPool, cores
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from ..dry_run.rank_step import RankRecord, execute_step, forget_layers, join_alone, leave
from ..layer_adapters import layer_adapters
from ..step_time import passes_of
from ..timing.cost import Communication, StreamTime, stream_time
from ..timing.hardware import Hardware
from ..workload import Workload, planned_step

Place = Literal["first", "layers", "last"]
_STAGES = 3
_PLACES: tuple[Place, ...] = ("first", "layers", "last")
_NOTHING = StreamTime(0.0)


@dataclass(frozen=True)
class StagePart:
    """Seconds, bytes and FLOPs of a part of a stage, per micro-batch where they are of passes. Peaks are bytes above
    what is held where the pass begins; all else adds up over the parts of a stage."""

    forward: StreamTime = _NOTHING
    backward: StreamTime = _NOTHING
    made_later: StreamTime = _NOTHING  # weight gradients that are made behind the backward pass
    before: StreamTime = _NOTHING
    after: StreamTime = _NOTHING
    between_stages: float = 0.0  # seconds of `after` in which stages exchange gradients (tied embeddings)
    recomputed: float = 0.0  # seconds of the backward pass in which something runs forward again
    reference: float = 0.0
    transfer: float = 0.0
    gathers: float = 0.0  # seconds in which weights come from other ranks beside the first forward passes
    reductions: float = 0.0  # and gradients go to them beside the last backward passes
    weights: float = 0.0
    gradients: float = 0.0
    optimizer: float = 0.0
    reference_weights: float = 0.0
    parameters: float = 0.0
    inputs: float = (
        0.0  # of a micro-batch and of one of the next step, on the device from the step's beginning to its end
    )
    retained: float = 0.0  # of a micro-batch from its forward pass to its backward pass
    waiting: float = 0.0  # of a micro-batch from its backward pass to when its weight gradients are made
    update: float = 0.0  # temporary bytes of the update
    start: float = 0.0  # bytes beside the states at the most that the job's start takes, before the first step
    checkpoint: float = 0.0  # and at the most that a checkpoint takes
    forward_peak: float = 0.0
    backward_peak: float = 0.0
    gradients_peak: float = 0.0
    language_flops: float = 0.0  # of a micro-batch, forward and backward (`model.flops.passes`)
    vision_flops: float = 0.0  # all pictures of a row, divided by the tensor-parallel ranks

    def plus(self, other: "StagePart", times: float = 1.0) -> "StagePart":
        """This part and `times` the other (-1: without it)."""
        total: dict[str, Any] = {}
        for name in _NUMBERS:
            total[name] = getattr(self, name) + times * getattr(other, name)
        for name in _TIMES:
            mine, theirs = getattr(self, name), getattr(other, name)
            total[name] = mine if theirs is _NOTHING else mine.plus(theirs, times)
        return StagePart(**total)

    def without_weights(self) -> "StagePart":
        """The same work on weights that another part has (tied embeddings)."""
        nothing: dict[str, Any] = dict.fromkeys(
            (
                "weights",
                "gradients",
                "optimizer",
                "reference_weights",
                "parameters",
                "update",
                "start",
                "checkpoint",
                "between_stages",
                "gathers",
                "reductions",
            ),
            0.0,
        )
        return replace(self, after=_NOTHING, **nothing)

    def at_once(self) -> "StagePart":
        """With its weight gradients in the backward pass."""
        backward = self.backward.plus(self.made_later)
        return replace(self, backward=backward, made_later=_NOTHING, waiting=0.0, gradients_peak=0.0)

    @property
    def busy(self) -> float:
        """Seconds of a micro-batch."""
        return self.forward.seconds + self.backward.seconds + self.made_later.seconds

    @property
    def draining(self) -> float:
        """Of them, what a stage in a full pipeline at least waits for while this part of another one runs: weight
        gradients that are made later fill as much time again."""
        return max(self.forward.seconds, self.busy - 2 * self.made_later.seconds)

    @property
    def states(self) -> float:
        """Bytes that are there between two steps."""
        return self.weights + self.gradients + self.optimizer + self.reference_weights


_TIMES = tuple(entry.name for entry in fields(StagePart) if entry.type is StreamTime)
_NUMBERS = tuple(entry.name for entry in fields(StagePart) if entry.name not in _TIMES)


@dataclass(frozen=True)
class Ranks:
    """How the ranks of one pipeline stage are divided."""

    size: int  # of the stage
    tensor: int = 1
    expert: int = 1
    expert_tensor: int = 1

    @property
    def data(self) -> int:
        return self.size // self.tensor


@dataclass(frozen=True)
class Recompute:
    """The settings of `model.recompute*` of a piece; of `recompute_method: block` a piece has all of its layers."""

    kind: str = "none"
    modules: tuple[str, ...] = ("core_attn",)
    num_layers: int = 1  # full: of a unit


@dataclass(frozen=True)
class StagePiece:
    """What is to be executed. recompute: of layers (place `layers`); vision: whether the tower's blocks are recomputed
    (place `first`)."""

    place: Place
    ranks: Ranks
    samples: int  # of a packed sequence
    sequence_length: int
    recompute: Recompute = Recompute()
    vision: bool = False
    delayed: bool = False  # weight gradients are made behind the backward pass


@dataclass(frozen=True)
class Costs:
    """each: what the part costs, of `layers` one layer. alone: as many as were executed, with what a stage has beside
    layers; None where that is the part itself."""

    each: StagePart
    alone: StagePart


@dataclass
class Pieces:
    """Executes pieces of a job once, and keeps what they cost. Its processes end with its `with` block."""

    settings: JobSettings
    architecture: Architecture
    workload: Workload
    hardware: Hardware
    imbalance: float = 1.0
    known: dict[StagePiece, Costs] = field(default_factory=dict)
    refused: dict[StagePiece, str] = field(default_factory=dict)  # pieces that cannot run, with the reason
    _pool: ProcessPool | None = None

    def __getitem__(self, piece: StagePiece) -> Costs:
        """Raises ValueError for a piece that cannot run. It is executed if it was not yet."""
        self.execute([piece])
        if piece in self.refused:
            raise ValueError(self.refused[piece])
        return self.known[piece]

    def execute(self, pieces: Iterable[StagePiece], progress: Progress = no_progress) -> None:
        """Execute those that are new, those of a rank together, as many ranks at once as there are processors."""
        by_rank: dict[tuple[Ranks, Place], list[StagePiece]] = defaultdict(list)
        for piece in dict.fromkeys(pieces):
            if piece not in self.known and piece not in self.refused:
                by_rank[piece.ranks, piece.place].append(piece)
        if not by_rank:
            return
        hardware = self.hardware.with_attention(self.settings.model.flash_attention)
        job = (self.settings, self.architecture, self.workload, hardware, self.imbalance)
        pool = self._pool = self._pool or ProcessPool(cores(), "executes pieces of a job", preload=__name__)
        futures = [pool.submit(_execute, *job, group) for group in by_rank.values()]
        try:
            for future in progress(as_completed(futures), len(futures), "pieces"):
                for piece, result in future.result():
                    if isinstance(result, str):
                        self.refused[piece] = result
                    else:
                        self.known[piece] = result
        except BaseException:
            self.close()
            raise

    def close(self) -> None:
        """End the processes that execute pieces; they start again where more are wanted."""
        if self._pool is not None:
            self._pool.close()
            self._pool = None

    def __enter__(self) -> "Pieces":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()


def settings_of(settings: JobSettings, piece: StagePiece, num_layers: int) -> JobSettings:
    """The job with a pipeline of three stages, all layers in the middle, and one micro-batch."""
    ranks, recompute = piece.ranks, piece.recompute
    parallel = replace(
        settings.parallel,
        tensor_model_parallel_size=ranks.tensor,
        expert_model_parallel_size=ranks.expert,
        expert_tensor_parallel_size=ranks.expert_tensor,
        pipeline_model_parallel_size=_STAGES,
        virtual_pipeline_model_parallel_size=None,
        account_for_embedding_in_pipeline_split=False,
        account_for_loss_in_pipeline_split=False,
        layers_per_chunk=[0, num_layers, 0],
        delayed_weight_gradients=[0] * _STAGES if piece.delayed else None,
    )
    model = replace(
        settings.model,
        recompute=recompute.kind,
        recompute_modules=list(recompute.modules),
        recompute_method="uniform",
        recompute_num_layers=recompute.num_layers,
        recompute_vision=piece.vision,
    )
    data = replace(settings.data, sequence_length=piece.sequence_length)
    training = replace(settings.training, global_batch_size=piece.samples * ranks.data)
    return replace(settings, parallel=parallel, model=model, data=data, training=training)


def _execute(
    settings: JobSettings,
    architecture: Architecture,
    workload: Workload,
    hardware: Hardware,
    imbalance: float,
    pieces: Sequence[StagePiece],
) -> list[tuple[StagePiece, Costs | str]]:
    """Costs of pieces that one rank has, or why they cannot be executed. The process is that rank meanwhile."""
    from editcaption_mega.training.setup import rank_share

    adapters = layer_adapters(settings, architecture)
    gc.freeze()  # what is there now stays, and is not searched when the rank is left
    place, ranks = pieces[0].place, pieces[0].ranks
    world_size = _STAGES * ranks.size
    rank = _PLACES.index(place) * ranks.size

    def run(piece: StagePiece, num_layers: int) -> StagePart:
        small = replace(architecture, num_layers=num_layers)
        job = settings_of(settings, piece, num_layers)
        if place != "first":  # features of pictures pass by a middle that is longer than here
            small = replace(small, vision=replace(small.vision, deepstack_layers=()))
        step = planned_step(job, small, workload, rank_share(job.parallel, on_gpu=True))
        forget_layers()
        of_part = None if adapters is None else adapters.of_part(small)
        return _part(execute_step(job, small, step, of_part, imbalance=imbalance), hardware, ranks)

    def costs(piece: StagePiece) -> Costs | str:
        unit = piece.recompute.num_layers
        try:
            if place != "layers":
                part = run(piece, 1)
                return Costs(part, part)
            double, single = run(piece, 2 * unit), run(piece, unit)
            return Costs(StagePart().plus(double.plus(single, -1), 1 / unit), single)
        except ValueError as error:
            return str(error)

    join_alone(rank, world_size, settings_of(settings, pieces[0], 1))
    try:
        return [(piece, costs(piece)) for piece in pieces]
    finally:
        leave()


def _part(record: RankRecord, hardware: Hardware, ranks: Ranks) -> StagePart:
    """What a stage that executed one micro-batch costs."""
    passes = passes_of(record, hardware)
    numbers = {phase.kind: i for i, phase in enumerate(record.phases)}
    forward, backward = (record.phases[numbers[kind]] for kind in ("forward", "backward"))
    gradients = record.phases[numbers["gradients"]] if "gradients" in numbers else None
    first, last = record.phases[0], record.phases[-1]
    ahead = record.phases[numbers["forward"] + 1]
    flops = sum(getattr(step, "flops", 0) for step in forward.steps)
    exchanged = [
        step for step in last.steps
        if isinstance(step, Communication)
        and step.kind == "all_reduce"
        and len(step.ranks) == 2
        and step.ranks[1] - step.ranks[0] >= ranks.size
    ]  # fmt: skip
    of_language, of_vision = record.passes
    states = record.states
    reference_weights = first.held - sum(states.values()) - record.inputs
    held = sum(states.values()) + reference_weights
    return StagePart(
        forward=passes.forward[0],
        backward=passes.backward[0],
        made_later=passes.gradients,
        before=passes.before,
        after=passes.after,
        between_stages=stream_time(exchanged, hardware).seconds,
        recomputed=passes.recomputed,
        reference=passes.reference,
        transfer=passes.transfer,
        gathers=max((wait.through for wait in passes.gathers[0]), default=0.0),
        reductions=sum(bucket.seconds for bucket in passes.reductions[0]),
        weights=states["weights"],
        gradients=states["gradients"],
        optimizer=states["optimizer"],
        reference_weights=reference_weights,
        parameters=record.parameters,
        inputs=record.inputs,
        retained=min(ahead.held, backward.held) - forward.held,
        waiting=gradients.held - forward.held if gradients is not None else 0.0,
        update=last.peak - forward.held,
        start=record.start_peak - held,
        checkpoint=record.checkpoint_peak - held,
        forward_peak=forward.peak - forward.held,
        backward_peak=backward.peak - backward.held,
        gradients_peak=gradients.peak - gradients.held if gradients is not None else 0.0,
        language_flops=of_language * (flops - forward.vision_flops),
        vision_flops=of_vision * forward.vision_flops * record.patches_of_rows / record.patches / ranks.tensor
        if record.patches
        else 0.0,
    )
