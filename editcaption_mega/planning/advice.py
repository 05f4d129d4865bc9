"""What holds a step back: the same step without one cost after another, on other numbers of GPUs, and for preference
training what its two savings are worth."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from typing import NamedTuple

from editcaption_mega.data.batching.packing import RankShare
from editcaption_mega.model import Architecture
from editcaption_mega.settings import DPOSettings

from .plan import JobPlan
from .step_time import Passes, assemble, model_flops, predict
from .timing.cost import StreamTime
from .workload import Workload, planned_step

_COLLECTIVES = ("all_gather", "reduce_scatter", "all_reduce", "all_to_all", "broadcast")


class WhatIf(NamedTuple):
    """The step if one thing were otherwise. share: its seconds over today's, for the same pairs."""

    what: str
    share: float


def what_would_help(plan: JobPlan) -> list[WhatIf]:
    """Each cost taken away alone, the most helpful first."""
    passes, count = plan.time.passes, plan.records[0].micro_batches
    variants = [
        ("no waiting for the pipeline to fill and drain", _steady(plan)),
        ("stages that take equally long", _again(plan, _level(passes), count)),
        ("nothing recomputed", _again(plan, list(map(_without_recompute, passes)), count)),
        ("communication of tensor and expert parallelism hidden", _again(plan, list(map(_hidden, passes)), count)),
        ("no waiting for the host", _again(plan, [_never_starved(stage) for stage in passes], count)),
        (
            "gradient and parameter communication hidden",
            _again(plan, [_local_update(stage) for stage in passes], count),
        ),
    ]
    model = plan.settings.model
    if plan.hardware.flash_attention_3 and (model.backend, model.flash_attention) == ("torch", 2):
        variants.append(("FlashAttention-3, with model.flash_attention=3", _flash_attention_3(plan)))
    helpful = [WhatIf(what, seconds / plan.time.seconds) for what, seconds in variants]
    return sorted((variant for variant in helpful if variant.share < 0.995), key=lambda variant: variant.share)


def on_more_gpus(plan: JobPlan, factor: int = 2) -> tuple[int, float | None, float]:
    """GPUs, and a step's seconds there with the same global batch (None where its rows do not divide) and with one that
    grows alike. Gradients over more ranks are taken to cost the same."""
    count = plan.records[0].micro_batches
    multiple = plan.settings.parallel.sequence_multiple
    fewer = count // factor
    same = _again(plan, plan.time.passes, fewer) if fewer and count % (factor * multiple) == 0 else None
    return factor * plan.world_size, same, plan.time.seconds


class PreferenceSavings(NamedTuple):
    """What preference training saves here."""

    tokens_shared: int  # of a step, prompts once per pair
    tokens_unshared: int
    reference_seconds: float  # that a reference's forward pass takes of each step, or would take
    reference_bytes: int  # that the weights of a resident one take on a rank, or would take


def preference_savings(plan: JobPlan, architecture: Architecture, workload: Workload) -> PreferenceSavings | None:
    """None for a job without a reference and pairs."""
    settings = plan.settings
    if not isinstance(settings, DPOSettings):
        return None
    counts = []
    for shared in (True, False):
        varied = replace(settings, data=replace(settings.data, shared_prompt=shared, sequence_length=1 << 20))
        step = planned_step(varied, architecture, workload, RankShare(with_images=False))
        counts.append(sum(batch.num_tokens for batch in step.micro_batches))
    forward = [sum(time.seconds for time in stage.forward) for stage in plan.time.passes]
    seconds = sum(forward) + (plan.records[0].micro_batches - 1) * max(forward)
    weights = max(record.states["weights"] for record in plan.records)
    shared_prompts, unshared = counts
    return PreferenceSavings(shared_prompts, unshared, seconds, weights)


def advice_lines(plan: JobPlan, architecture: Architecture, workload: Workload) -> Iterator[str]:
    """All of it as text."""
    helpful = what_would_help(plan)
    if helpful:
        yield "what would help, each alone (the step's time then):"
    else:
        yield "no single cost that could be taken away is worth half a per cent of the step"
    for what, share in helpful:
        yield f"  x {share:.2f}  {what}"
    gpus, same, grown = on_more_gpus(plan)
    batch = plan.settings.training.global_batch_size
    if same is not None:
        yield f"{gpus} GPUs: {same:.2f} s with the same batch of {batch}, {grown:.2f} s with {2 * batch}"
    else:
        yield f"{gpus} GPUs: {grown:.2f} s with a batch of {2 * batch}; rows of {batch} do not divide there"
    savings = preference_savings(plan, architecture, workload)
    if savings is not None:
        ratio = savings.tokens_unshared / savings.tokens_shared
        seconds, weights = f"{savings.reference_seconds:.2f} s", f"{savings.reference_bytes / 2**30:.1f} GiB"
        reference = f"a resident reference takes {seconds} a step and {weights}"
        if isinstance(plan.settings, DPOSettings) and plan.settings.reference_mode == "adapters_off":
            reference = f"the model with its adapters off, as reference, takes {seconds} of the step and no memory"
        yield (
            f"shared prompts: {savings.tokens_shared:,} tokens a step instead of {savings.tokens_unshared:,} "
            f"({ratio:.2f} x); {reference}, a stored one neither"
        )


def _again(plan: JobPlan, passes: Sequence[Passes], micro_batches: int) -> float:
    """Seconds of the step with these passes."""
    flops = model_flops(plan.records, plan.world_size, plan.settings.parallel.tensor_model_parallel_size)
    return assemble(passes, micro_batches, flops, plan.hardware, plan.world_size).seconds


def _flash_attention_3(plan: JobPlan) -> float:
    tensor_size = plan.settings.parallel.tensor_model_parallel_size
    return predict(plan.records, plan.hardware.with_attention(3), plan.world_size, tensor_size).seconds


def _steady(plan: JobPlan) -> float:
    """Seconds of a step whose busiest stage never waits."""
    time = plan.time
    busiest = max(stage.busy for stage in time.passes)
    return time.before + time.after + time.reference + busiest * plan.records[0].micro_batches


def _level(passes: Sequence[Passes]) -> list[Passes]:
    mean = sum(stage.busy for stage in passes) / len(passes)

    def scaled(stage: Passes) -> Passes:
        factor = mean / stage.busy if stage.busy else 1.0
        return _of_each(stage, lambda part: replace(part, seconds=part.seconds * factor))

    return list(map(scaled, passes))


def _changed(stage: Passes, factor: float) -> tuple[StreamTime, ...]:
    return tuple(replace(part, seconds=part.seconds * factor) for part in stage.backward)


def _without_recompute(stage: Passes) -> Passes:
    backward = sum(part.seconds for part in stage.backward)
    return replace(stage, backward=_changed(stage, 1 - stage.recomputed / backward)) if backward else stage


def _less(part: StreamTime, seconds: float) -> StreamTime:
    return replace(part, seconds=max(0.0, part.seconds - seconds))


def _hidden(stage: Passes) -> Passes:
    def without(part: StreamTime) -> StreamTime:
        return _less(part, sum(part.by_kind.get(kind, 0.0) for kind in _COLLECTIVES))

    return _of_each(stage, without)


def _of_each(stage: Passes, changed: Callable[[StreamTime], StreamTime]) -> Passes:
    forward, backward = (tuple(map(changed, parts)) for parts in (stage.forward, stage.backward))
    return replace(stage, forward=forward, backward=backward, gradients=changed(stage.gradients))


def _never_starved(stage: Passes) -> Passes:
    def without(part: StreamTime) -> StreamTime:
        return replace(part, seconds=sum(part.by_kind.values()))

    return _of_each(stage, without)


def _local_update(stage: Passes) -> Passes:
    part = stage.after
    local = _less(part, sum(part.by_kind.get(kind, 0.0) for kind in _COLLECTIVES))
    return replace(stage, after=local, gathers=(), reductions=())
