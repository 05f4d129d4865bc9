"""Choose the layouts of configs/layouts.yaml by search, or renew the figures of those that are listed.

    python -m tests.planning.choose_layouts --model 32b --gpus 32 64 --memory 80
    python -m tests.planning.choose_layouts --renew --model 32b

The file is written after each job, so an interrupted run is gone on with `--missing`. A search takes a minute or two of
two cores, of 235B five; the dry run of a layout 3 seconds to a minute.
"""

import argparse
import math
import time
from collections.abc import Sequence
from dataclasses import replace

from editcaption_mega.planning.layouts.choices import (
    Groups,
    groups_of,
    groups_that_run,
    least_states,
    overrides,
)
from editcaption_mega.planning.layouts.fit import GIB, Fit, fit
from editcaption_mega.planning.layouts.modes import PlannedJob, executed_plan
from editcaption_mega.planning.layouts.search import HEADROOM, Limits, search
from editcaption_mega.settings import JobSettings, load_job

from .gpu_counts import GPUS, HARDWARE, KINDS, LAYOUTS, MODELS, Listed, job_changes, layouts_text, listed

KEPT_WITHIN = 1.02  # of the best layout's seconds, where the configuration's own stays
_TOP = 4


def choose(entry: Listed, groups: Sequence[Groups] | None = None) -> tuple[Listed, list[Groups]]:
    """The entry with the best layout that leaves HEADROOM when it is executed, and the groups of those that came close.

    groups: those to choose from, by default all that can run."""
    job, shipped = entry.job(job_changes(entry)), load_job(entry.config)
    limits = Limits(entry.gpus, job.memory_gib)
    if not groups_that_run(job.settings, job.architecture, entry.gpus, (1 - HEADROOM) * job.memory_gib):
        return replace(entry, add=None, why=why_nothing_fits(job)), []
    with job.pieces() as pieces:
        own, refused = None, ""
        try:
            own = fit(pieces, job.settings, entry.gpus, memory_gib=job.memory_gib)
        except ValueError as error:
            refused = str(error)
        best = search(pieces, job.settings, limits, top=_TOP, groups=groups)
    usable = own if own is not None and own.headroom >= HEADROOM else None
    candidates = by_preference([*best, *([usable] if usable else [])], usable)
    close = list(dict.fromkeys(groups_of(each.settings.parallel) for each in candidates))
    for chosen in candidates:
        add = " ".join(overrides(chosen.settings, shipped))
        why = f"{against_own(chosen, own, refused)}{next_best(chosen, candidates)}"
        made = executed(replace(entry, add=add, why=why))
        if made.free >= HEADROOM:
            return made, close
    if candidates:
        raise RuntimeError(f"{entry.name}: none of {len(candidates)} layouts leaves enough when executed: raise _TOP")
    return replace(entry, add=None, why=why_nothing_fits(job)), []


def by_preference(candidates: Sequence[Fit], own: Fit | None) -> list[Fit]:
    """Fastest first, but the configuration's own before those that are hardly faster."""
    ordered = sorted(candidates, key=lambda each: each.time.seconds)
    if own and own.time.seconds <= KEPT_WITHIN * ordered[0].time.seconds:
        return [own, *(each for each in ordered if each is not own)]
    return ordered


def against_own(chosen: Fit, own: Fit | None, refused: str) -> str:
    """What the configuration's own layout is on so many GPUs."""
    if own is None:
        return f"the configuration's own layout does not run here: {refused.partition(';')[0]}"
    if own is chosen:
        return "the configuration's own layout"
    if own.headroom < HEADROOM:
        return f"the configuration's own layout would leave {100 * own.headroom:.0f} % free"
    faster = 100 * (own.time.seconds / chosen.time.seconds - 1)
    return f"the configuration's own layout takes {faster:.0f} % longer"


def next_best(chosen: Fit, candidates: Sequence[Fit]) -> str:
    """The best of other groups of ranks that came close."""
    mine = groups_of(chosen.settings.parallel)
    others = [each for each in candidates if groups_of(each.settings.parallel) != mine]
    if not others:
        return ""
    second = min(others, key=lambda each: each.time.seconds)
    longer = 100 * (second.time.seconds / chosen.time.seconds - 1)
    return f"; {groups_text(second.settings)} {longer:+.1f} %"


def groups_text(settings: JobSettings) -> str:
    parallel = settings.parallel
    sizes = {"TP": parallel.tensor_model_parallel_size, "PP": parallel.pipeline_model_parallel_size}
    sizes |= {"V": parallel.virtual_pipeline_model_parallel_size or 1, "EP": parallel.expert_model_parallel_size}
    return " ".join(f"{name}{size}" for name, size in sizes.items() if size > 1) or "data parallelism alone"


def why_nothing_fits(job: PlannedJob) -> str:
    """What a GPU holds at least, were weights, gradients and optimizer divided evenly in the layout that cuts them
    smallest."""
    groups = groups_that_run(job.settings, job.architecture, job.world_size, math.inf)
    least = min(least_states(job.settings, job.architecture, each, job.world_size) for each in groups) / GIB
    what = f"weights, gradients and optimizer take at least {least:.0f} of {job.memory_gib:.0f} GiB per GPU"
    free = f"a step with {100 * HEADROOM:.0f} % free"
    return f"{what}, which leaves too little for {free}" if least < job.memory_gib else what


def executed(entry: Listed) -> Listed:
    """The entry with the figures of its dry run."""
    job = entry.job()
    plan = executed_plan(job, job.settings)
    return replace(entry, seconds=round(plan.time.seconds, 4), free=round(plan.headroom, 4))


def wanted(arguments: argparse.Namespace, entries: dict[str, Listed]) -> list[Listed]:
    """The jobs that the arguments name, SFT before DPO."""
    jobs = [
        Listed(model, gpus, memory, kind)
        for memory in arguments.memory
        for model in arguments.model
        for gpus in arguments.gpus
        for kind in arguments.kind
    ]
    if arguments.renew:
        return [entries[job.name] for job in jobs if job.name in entries and entries[job.name].add is not None]
    return [job for job in jobs if not (arguments.missing and job.name in entries)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", nargs="+", choices=MODELS, default=MODELS)
    parser.add_argument("--gpus", nargs="+", type=int, choices=GPUS, default=GPUS)
    parser.add_argument("--memory", nargs="+", type=int, choices=list(HARDWARE), default=list(HARDWARE))
    parser.add_argument("--kind", nargs="+", choices=list(KINDS), default=["sft", "dpo"])
    parser.add_argument("--missing", action="store_true", help="only jobs that are not listed yet")
    parser.add_argument("--renew", action="store_true", help="dry runs of what is listed, instead of searches")
    arguments = parser.parse_args()
    entries = {entry.name: entry for entry in listed()}
    close: dict[tuple[str, int, int, bool], list[Groups]] = {}
    for job in wanted(arguments, entries):
        begun = time.monotonic()
        place = (job.model, job.gpus, job.memory, job.lora)
        if arguments.renew:
            made = executed(job)
        else:
            made, close[place] = choose(job, close.get(place) or None)
        entries[made.name] = made
        LAYOUTS.write_text(layouts_text(list(entries.values())), encoding="utf-8")
        print(f"{made.name} ({time.monotonic() - begun:.0f} s): {made}", flush=True)


if __name__ == "__main__":
    main()
