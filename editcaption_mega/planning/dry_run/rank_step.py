"""One rank's part of one optimizer step of a job, executed on tensors without values: the project's own model,
schedule, optimizer and objective, at the job's own world size.

The process becomes a dry one for good (`platform.prepare`), so ranks are executed in processes of their own; one may be
several ranks in turn.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
import os
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from itertools import batched, pairwise
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.transformer.moe.moe_logging import destroy_moe_metrics_tracker
from torch import Tensor, nn

from editcaption_mega import platform
from editcaption_mega.conversion import AdapterChoice, local_param_shards, rules_for
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.build import unwrap
from editcaption_mega.model.flops import passes
from editcaption_mega.objectives import Objective, SFTObjective
from editcaption_mega.settings import DPOSettings, JobSettings, ParallelSettings
from editcaption_mega.training.adapter_state import freeze_weights
from editcaption_mega.training.checkpoint import tensors_of_rank
from editcaption_mega.training.dpo import dpo_objective
from editcaption_mega.training.dpo_reference import (
    AdaptersOffReference,
    JobReference,
    ResidentReference,
    StoredReference,
)
from editcaption_mega.training.loop import train_step
from editcaption_mega.training.megatron_optimizer import begin_state, expect_gradients, start_gathers
from editcaption_mega.training.optimizer import TrainState, build_train_state, freeze_modules
from editcaption_mega.training.pair_facts import PairTable
from editcaption_mega.training.setup import layout_of

from . import fakes
from .memory import Peak
from .recorder import INPUTS, HostSync, Phase, StepRecorder

WEIGHTS, GRADIENTS, OPTIMIZER, REFERENCE = "weights", "gradients", "optimizer", "reference weights"


@dataclass
class RankRecord:
    """What was seen of one rank."""

    rank: int
    coordinates: dict[str, int]  # pipeline, tensor, expert, data: this rank's place in each
    parameters: int  # elements on this rank
    states: dict[str, int]  # bytes of weights, gradients and optimizer
    peak: Peak  # of the step
    start_peak: int  # bytes, the most before it: weights, optimizer and reference are made and filled
    checkpoint_peak: int  # bytes, the most while a checkpoint is taken
    checkpoint_bytes: int  # that this rank writes of one
    inputs: int  # bytes of the micro-batches of this step and the next
    timeline: list[tuple[int, dict[str, int]]]  # (operator, bytes by kind)
    phases: list[Phase]
    host_syncs: Counter[HostSync]
    mixed: Counter[HostSync]
    micro_batches: int  # of the step
    executed: int  # of these
    row_length: int  # tokens of a packed sequence, padding included
    tokens: int  # of the micro-batches without padding
    patches: int  # of pictures that this rank computes for the micro-batches
    patches_of_rows: int  # that all tensor-parallel ranks compute for them
    seconds: float  # that the execution took
    passes: tuple[int, int] = (3, 3)  # see `model.flops.passes`
    delayed: list[int] | None = None  # setting parallel.delayed_weight_gradients


def join_alone(rank: int, world_size: int, settings: JobSettings) -> None:
    """Become `rank` of a job of `world_size` ranks, of which no other exists."""
    from torch.testing._internal.distributed.fake_pg import FakeStore

    os.environ.setdefault("CUDA_DEVICE_MAX_CONNECTIONS", "1")  # as jobs have it; Megatron warns where it is missing
    platform.prepare(dry=True)
    dist.init_process_group("cpu:fake,meta:fake", rank=rank, world_size=world_size, store=FakeStore())
    platform.initialize(layout_of(settings.parallel), settings.training.seed)


def leave() -> None:
    """Undo `join_alone`: the process may become another rank."""
    forget_layers()
    # The group's end asks its default backend for hooks, and warns where there is none.
    if dist.group.WORLD is not None:
        dist.group.WORLD._set_default_backend(dist.ProcessGroup.BackendType.CUSTOM)
    platform.destroy()


def forget_layers() -> None:
    """Megatron's statistics of layers are as long as the first model of a process; a later one may have more layers."""
    destroy_moe_metrics_tracker()


def execute_step(
    settings: JobSettings,
    architecture: Architecture,
    step: Step,
    adapters: AdapterChoice | None,
    *,
    imbalance: float = 1.0,
    all_micro_batches: bool = False,
) -> RankRecord:
    """This rank's part of `step`. After `join_alone`.

    Of its micro-batches so many run as it takes to fill the pipeline and one more: later ones repeat what these do. The
    others, and the next step's inputs, lie on the device meanwhile, as in a job. adapters: what alone is trained
    (`adapter_state.chosen_adapters`). imbalance: see `fakes.answer_for_values`."""
    began, recorder = time.monotonic(), StepRecorder()
    fakes.answer_for_values(recorder, imbalance)
    micro_batches, merged = len(step.micro_batches), architecture.vision.spatial_merge_size**2
    executed = micro_batches if all_micro_batches else _enough(settings.parallel, micro_batches)
    plan = adapters.plan(settings.training.seed) if adapters else None
    with recorder:
        with recorder.allocating(WEIGHTS):
            chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision, plan)
        state = _train_state(settings, architecture, adapters, chunks, recorder)
        states = {kind: recorder.memory.by_kind[kind] for kind in (WEIGHTS, GRADIENTS, OPTIMIZER)}
        with recorder.allocating(REFERENCE):
            objective, _ = job_objective(settings, architecture, step, state.chunks)
        start_peak = recorder.memory.peak.total
        checkpoint_peak, checkpoint_bytes = _checkpoint(architecture, adapters, state, recorder)
        # Copied while the step before was computed; those of the next step are while this one is.
        batches, coming = _on_device(step, recorder), _on_device(step, recorder)
        inputs = recorder.memory.by_kind[INPUTS]
        recorder.start()
        start_gathers(state.chunks)  # as the step before has
        with _naming_modules(state.chunks, recorder):
            train_step(state, objective, replace(step, micro_batches=batches[:executed]))
        del batches, coming
    return RankRecord(
        rank=dist.get_rank(),
        coordinates=_coordinates(),
        parameters=sum(p.numel() for chunk in state.chunks for p in chunk.parameters()),
        passes=passes(plan),
        states=states,
        inputs=inputs,
        peak=recorder.memory.peak,
        start_peak=start_peak,
        checkpoint_peak=checkpoint_peak,
        checkpoint_bytes=checkpoint_bytes,
        timeline=recorder.memory.timeline,
        phases=recorder.phases,
        host_syncs=recorder.host_syncs,
        mixed=recorder.mixed,
        micro_batches=micro_batches,
        executed=executed,
        delayed=settings.parallel.delayed_weight_gradients,
        row_length=step.length,
        tokens=sum(batch.num_tokens for batch in step.micro_batches),
        patches=sum(_own_patches(batch) for batch in step.micro_batches),
        patches_of_rows=sum(len(batch.visual_positions) for batch in step.micro_batches) * merged,
        seconds=time.monotonic() - began,
    )


def _checkpoint(
    architecture: Architecture, adapters: AdapterChoice | None, state: TrainState, recorder: StepRecorder
) -> tuple[int, int]:
    """Go over what a checkpoint takes from the device -> (the most bytes there meanwhile, bytes that are written)."""
    recorder.memory.start()
    param_shards = local_param_shards(state.chunks, adapters.rules if adapters else rules_for(architecture))
    written = sum(values.nbytes for _, _, _, values in tensors_of_rank(param_shards, state.optimizer))
    return recorder.memory.peak.total, written


def _own_patches(batch: PackedBatch) -> int:
    images = batch.images
    return 0 if images is None or not images.num_tokens else images.pixels.size(0)


def _enough(parallel: ParallelSettings, micro_batches: int) -> int:
    """Micro-batches after which this rank has held the most at once (Megatron's warm-up, plus the one that follows).

    A stage of PP runs PP - stage - 1 ahead, an interleaved one 2 (PP - stage - 1) + (VPP - 1) PP chunks of them."""
    stages = parallel.pipeline_model_parallel_size
    stage: int = parallel_state.get_pipeline_model_parallel_rank()
    virtual = parallel.virtual_pipeline_model_parallel_size
    if virtual is None:
        delayed = parallel.delayed_weight_gradients
        return min(micro_batches, stages - stage + 1 + (delayed[stage] if delayed else 0))
    warm_up = 2 * (stages - stage - 1) + (virtual - 1) * stages
    return min(micro_batches, stages * -(-(warm_up + 2) // (virtual * stages)))


def job_objective(
    settings: JobSettings, architecture: Architecture, step: Step, policy: Sequence[nn.Module] = ()
) -> tuple[Objective, list[nn.Module]]:
    """The job's objective between its first step and its last, and the chunks of its resident reference, without
    weights. A stored reference holds zeros for the samples of this step. policy: its chunks, of a job with adapters."""
    if not isinstance(settings, DPOSettings):
        return SFTObjective(), []
    chunks: list[nn.Module] = []
    reference: StoredReference | ResidentReference | None = None
    if settings.reference_mode == "stored":
        reference = StoredReference(_stored_log_probs(step))
    elif settings.reference_mode == "adapters_off":
        reference = AdaptersOffReference(list(policy))
    elif settings.reference_mode == "resident":
        chunks = build_model(architecture, settings.model, settings.parallel, settings.training.precision)
        reference = ResidentReference(chunks)
    of_job = None if reference is None else JobReference(reference, "", equals_start=False)
    count = 1 + max(sample for batch in step.micro_batches for sample in batch.sample_numbers)
    return dpo_objective(settings, of_job, PairTable.plain(count)), chunks


def _stored_log_probs(step: Step) -> dict[int, Tensor]:
    """By sample, zeros for the tokens of both answers, as a stored reference has them."""
    tensors = {}
    for batch in step.micro_batches:
        for sample, (first, last) in zip(
            batch.sample_numbers, batched(pairwise(batch.response_bounds), 2), strict=True
        ):
            tensors[sample] = torch.zeros(last[1] - first[0])
    return tensors


def _on_device(step: Step, recorder: StepRecorder) -> list[PackedBatch]:
    """The micro-batches on the device. Pictures without values are there already; in a job they are copied."""
    with recorder.allocating(INPUTS):
        batches = [batch.to(platform.device()) for batch in step.micro_batches]
        for batch in batches:
            if batch.images is not None:
                batch.images.pixels = torch.empty_like(batch.images.pixels)
    return batches


def _train_state(
    settings: JobSettings,
    architecture: Architecture,
    adapters: AdapterChoice | None,
    chunks: list[nn.Module],
    recorder: StepRecorder,
) -> TrainState:
    """Model and optimizer as they are between two steps, their memory under its names."""
    if adapters is not None:
        shards = freeze_weights(chunks, adapters)
    else:
        shards = local_param_shards(chunks, rules_for(architecture))
        freeze_modules(shards, settings.optimizer)
    with recorder.allocating(OPTIMIZER):
        state = build_train_state(
            chunks, shards, settings.optimizer, precision=settings.training.precision, total_steps=2,
            overlap=settings.parallel.overlap_data_parallel,
        )  # fmt: skip
        expect_gradients(state.chunks)  # as any step but the first
        begin_state(state.optimizer, 1)
    memory = recorder.memory
    for chunk in state.chunks:
        chunk.train()
        memory.relabel(chunk.parameters(), WEIGHTS)
        memory.relabel(chunk.module.buffers(), WEIGHTS)
        for buffer in [*chunk.buffers, *chunk.expert_parallel_buffers]:
            memory.relabel([buffer.grad_data], GRADIENTS)
            if buffer.param_data is not None:
                memory.relabel([buffer.param_data], WEIGHTS)
    return state


def _coordinates() -> dict[str, int]:
    return {
        "pipeline": parallel_state.get_pipeline_model_parallel_rank(),
        "tensor": parallel_state.get_tensor_model_parallel_rank(),
        "expert": parallel_state.get_expert_model_parallel_rank(),
        "data": parallel_state.get_data_parallel_rank(),
    }


@contextmanager
def _naming_modules(chunks: list[Any], recorder: StepRecorder) -> Iterator[None]:
    """The recorder knows which module is running: its name within its chunk."""
    names = {id(module): name for chunk in chunks for name, module in unwrap(chunk).named_modules()}

    def enter(module: nn.Module, inputs: Any) -> None:
        recorder.modules.append(names.get(id(module), ""))

    def leave(module: nn.Module, inputs: Any, output: Any) -> None:
        recorder.modules.pop()

    hooks = [
        nn.modules.module.register_module_forward_pre_hook(enter),
        nn.modules.module.register_module_forward_hook(leave, always_call=True),
    ]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
