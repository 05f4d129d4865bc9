"""Fits and the table of a search, as text and as JSON."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from editcaption_mega.words import counted

from ..plan import JobPlan
from .choices import overrides
from .fit import GIB, Fit


def fit_lines(found: Fit) -> Iterator[str]:
    """What a person reads of one fit."""
    yield f"memory per stage in GiB, of {found.memory_gib:.1f}; layers per chunk: {', '.join(map(str, found.counts))}"
    for stage, memory in enumerate(found.stages):
        passes = found.time.passes[stage]
        more = f"the start or a checkpoint {memory.beyond_step / GIB:.1f} more, " if memory.beyond_step else ""
        yield (
            f"  stage {stage}: {memory.needed / GIB:.1f} = weights, gradients, optimizer {memory.states / GIB:.1f}, "
            f"inputs {memory.inputs / GIB:.1f}, activations {memory.activations / GIB:.1f}, {more}reserved "
            f"{memory.reserved / GIB:.1f}; {passes}, idle {100 * found.time.timeline.idle[stage]:.0f} %"
        )


def fit_summary(found: Fit) -> str:
    """One line: how much is free, and how fast it is."""
    time, rows = found.time, found.rows
    return (
        f"{counted(found.world_size, 'GPU')}: {_room(found.headroom)} on stage {found.worst}; step "
        f"{time.seconds:.3f} s, {rows.micro_batches} micro-batches of {rows.length:,} tokens per rank, MFU "
        f"{100 * time.mfu:.1f} % (vision {100 * time.mfu_vision:.1f}), bubble {100 * time.bubble:.0f} %, slowest stage "
        f"{time.imbalance:.2f} x the mean, {found.pairs_per_second:.1f} pairs/s"
    )


def _room(headroom: float) -> str:
    """What of a GPU's memory is left, or how many times it is needed. headroom: a share of it."""
    return f"{100 * headroom:.0f} % of the memory free" if headroom >= 0 else f"{1 - headroom:.2f} x the memory needed"


class Executed(NamedTuple):
    """A layout of a search, and the dry run of it."""

    fit: Fit
    plan: JobPlan


def table_lines(layouts: Sequence[Executed], given: Fit | None, original: Any) -> Iterator[str]:
    """The best of a search, fastest first. given: the fit of the original settings, where they run."""
    if given is not None:
        yield f"given, by fit: {fit_summary(given)}"
    for place, layout in enumerate(layouts, 1):
        by_fit, executed = layout.fit.time, layout.plan.time
        ratio = "" if given is None else f" ({by_fit.seconds / given.time.seconds:.2f} x the given)"
        yield f"{place:2d}. by fit: step {by_fit.seconds:.3f} s{ratio}, {_figures(layout.fit)}"
        yield f"    executed: step {executed.seconds:.3f} s, {_figures(layout.plan)}"
        yield f"    {_settings(layout, original)}"


def dropped_lines(layouts: Sequence[Executed], original: Any) -> Iterator[str]:
    """What a search left out."""
    for layout in layouts:
        plan, worst = layout.plan, layout.plan.worst
        needed = plan.needed(plan.records[worst]) / GIB
        yield (
            f"left out, because it does not fit when it is executed: {plan.roles[worst].name} needs {needed:.1f} GiB, "
            f"{needed - plan.memory_gib:.1f} more than the {plan.memory_gib:.1f} of a GPU; by fit "
            f"{100 * layout.fit.headroom:.0f} % were free: {_settings(layout, original)}"
        )


def _figures(layout: Fit | JobPlan) -> str:
    time = layout.time
    return (
        f"{100 * layout.headroom:.0f} % free, MFU {100 * time.mfu:.1f} %, bubble {100 * time.bubble:.0f} %, slowest "
        f"stage {time.imbalance:.2f} x the mean"
    )


def _settings(layout: Executed, original: Any) -> str:
    return " ".join(overrides(layout.fit.settings, original)) or "(as given)"


def executed_json(layout: Executed, original: Any) -> dict[str, Any]:
    """The fit with the figures of its dry run."""
    plan = layout.plan
    needed = round(max(map(plan.needed, plan.records)))
    figures = {"seconds": plan.time.seconds, "mfu": plan.time.mfu, "bubble": plan.time.bubble}
    dry_run = {"fits": plan.fits, "headroom": plan.headroom, "needed_bytes": needed, **figures}
    return {**fit_json(layout.fit, original), "dry_run": dry_run}


def fit_json(found: Fit, original: Any) -> dict[str, Any]:
    """Sizes in bytes, times in seconds."""
    time = found.time
    return {
        "world_size": found.world_size,
        "memory_bytes": round(found.memory_gib * GIB),
        "headroom": found.headroom,
        "overrides": overrides(found.settings, original),
        "layers_per_chunk": list(found.counts),
        "stages": [
            {
                "peak_bytes": round(memory.peak),
                "needed_bytes": round(memory.needed),
                "states_bytes": round(memory.states),
                "inputs_bytes": round(memory.inputs),
                "activations_bytes": round(memory.activations),
                "beyond_step_bytes": round(memory.beyond_step),
            }
            for memory in found.stages
        ],
        "step": {
            "seconds": time.seconds,
            "mfu": time.mfu,
            "mfu_vision": time.mfu_vision,
            "bubble": time.bubble,
            "stage_imbalance": time.imbalance,
            "pairs_per_second": found.pairs_per_second,
            "micro_batches": found.rows.micro_batches,
            "row_length": found.rows.length,
            "shares": time.shares,
        },
    }
