"""The layout that fits and differs least from one that does not: recomputation alone, then the row length too, then one
size of the groups of ranks with recomputation, or with other splits and rows, then two of these sizes and so on."""

from collections.abc import Iterator, Sequence
from dataclasses import replace

from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from .choices import (
    Groups,
    groups_of,
    groups_that_run,
    overrides,
    recompute_choices,
    row_lengths,
    selective_modules,
    with_groups,
    with_row_length,
)
from .fit import GIB, Fit, fit, needed_pieces, ranks_of, rows_of
from .pieces import Pieces
from .search import HEADROOM, Limits, search


def nearest(pieces: Pieces, settings: JobSettings, limits: Limits, progress: Progress = no_progress) -> Fit | None:
    """The fastest that fits of the first kind of change that is enough; None where no layout fits these GPUs."""
    lengths = row_lengths(settings, pieces.architecture, pieces.workload)
    shorter = [with_row_length(settings, length) for length in lengths if length < settings.data.sequence_length]
    for jobs in ([settings], shorter):
        if (close := _fastest(pieces, _recomputing(pieces, jobs), limits, progress)) is not None:
            return close
    for groups in _by_distance(pieces, settings, limits):
        jobs = [_in_groups(settings, each) for each in groups]
        for changed in (jobs, _recomputing(pieces, jobs)):
            if (close := _fastest(pieces, changed, limits, progress)) is not None:
                return close
        if chosen := search(pieces, settings, limits, top=1, groups=groups, progress=progress):
            return chosen[0]
    return None


def _recomputing(pieces: Pieces, jobs: Sequence[JobSettings]) -> list[JobSettings]:
    modules = selective_modules(pieces.architecture)
    choices = [job for each in jobs for job in recompute_choices(each, modules)]
    return [job for job in choices if job.model.recompute_method == "uniform"]


def _by_distance(pieces: Pieces, settings: JobSettings, limits: Limits) -> Iterator[list[Groups]]:
    """Groups that differ from the given ones in one size, then those that differ in two and so on."""
    given = groups_of(settings.parallel)
    most = limits.memory_gib * (1 - limits.headroom)
    every = groups_that_run(settings, pieces.architecture, limits.world_size, most)
    for distance in range(1, 5):
        groups = [each for each in every if each.distance(given) == distance]
        if groups:
            yield groups


def _in_groups(settings: JobSettings, groups: Groups) -> JobSettings:
    """The job with other sizes; its split of the layers stays where its stages do."""
    job, given = with_groups(settings, groups), settings.parallel
    if groups.pipeline != given.pipeline_model_parallel_size:
        return job
    parallel = replace(
        job.parallel,
        virtual_pipeline_model_parallel_size=given.virtual_pipeline_model_parallel_size,
        account_for_embedding_in_pipeline_split=given.account_for_embedding_in_pipeline_split,
        account_for_loss_in_pipeline_split=given.account_for_loss_in_pipeline_split,
        layers_per_chunk=given.layers_per_chunk,
    )
    return replace(job, parallel=parallel)


def _fastest(pieces: Pieces, jobs: Sequence[JobSettings], limits: Limits, progress: Progress) -> Fit | None:
    """The fastest of these that fits."""
    wanted = {}
    for i, job in enumerate(jobs):
        try:
            rows = rows_of(job, pieces.architecture, pieces.workload, limits.world_size)
        except ValueError:  # a batch that is too small for its ranks
            continue
        wanted[i] = (job, needed_pieces(job, ranks_of(job.parallel, limits.world_size), rows))
    pieces.execute([piece for _, of_job in wanted.values() for piece in of_job], progress)
    runs = [job for job, of_job in wanted.values() if not any(piece in pieces.refused for piece in of_job)]
    fits = [fit(pieces, job, limits.world_size, memory_gib=limits.memory_gib) for job in runs]
    fits = [each for each in fits if each.headroom >= limits.headroom]
    return min(fits, key=lambda each: each.time.seconds, default=None)


def does_not_fit(given: Fit, near: Fit | None) -> str:
    """What is over, by how much, on which rank, and what would fit."""
    stage = given.worst
    needed = given.stages[stage].needed / GIB
    rank = stage * given.world_size // len(given.stages)
    what = (
        f"does not fit: stage {stage} (rank {rank}) needs {needed:.1f} GiB, {needed - given.memory_gib:.1f} more than "
        f"the {given.memory_gib:.1f} of a GPU"
    )
    if near is None:
        none = f"no layout of {given.world_size} of these GPUs fits with {100 * HEADROOM:.0f} % of the memory free"
        return f"{what}; {none}: use more of them, or larger ones"
    changes = " ".join(overrides(near.settings, given.settings))
    return (
        f"{what}; the nearest layout that fits: {changes} (step {near.time.seconds:.2f} s, "
        f"{100 * near.headroom:.0f} % of the memory free)"
    )
