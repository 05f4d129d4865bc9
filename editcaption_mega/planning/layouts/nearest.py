"""The layout that fits and differs least from one that does not: recomputation alone, then the row length too, then the
groups of ranks."""

from collections.abc import Iterator

from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from .choices import row_lengths, sample_pieces, selective_modules
from .fit import GIB, Fit, fit, needed_pieces, ranks_of, rows_of
from .pieces import Pieces
from .search import Limits, overrides, recompute_choices, search


def nearest(pieces: Pieces, settings: JobSettings, limits: Limits, progress: Progress = no_progress) -> Fit | None:
    """The fastest that fits of the first kind of change that is enough; None where no layout fits these GPUs."""
    for jobs in _few_changes(pieces, settings):
        known = [job for job in jobs if _prepared(pieces, job, limits.world_size, progress)]
        fits = [fit(pieces, job, limits.world_size, memory_gib=limits.memory_gib) for job in known]
        fits = [each for each in fits if each.headroom >= limits.headroom]
        if fits:
            return min(fits, key=lambda each: each.time.seconds)
    return next(iter(search(pieces, settings, limits, top=1, progress=progress)), None)


def _few_changes(pieces: Pieces, settings: JobSettings) -> Iterator[list[JobSettings]]:
    modules = selective_modules(pieces.architecture)
    yield [job for job in recompute_choices(settings, modules) if job.model.recompute_method == "uniform"]
    lengths = row_lengths(settings, pieces.architecture, pieces.workload)
    shorter = [length for length in lengths if length < settings.data.sequence_length]
    yield [
        job
        for row in sample_pieces(settings, shorter)
        for job in recompute_choices(row, modules)
        if job.model.recompute_method == "uniform"
    ]


def _prepared(pieces: Pieces, job: JobSettings, world_size: int, progress: Progress) -> bool:
    """Whether the job's pieces run; they are executed."""
    try:
        rows = rows_of(job, pieces.architecture, pieces.workload, world_size)
    except ValueError:
        return False
    wanted = needed_pieces(job, ranks_of(job.parallel, world_size), rows)
    pieces.execute(wanted, progress)
    return not any(piece in pieces.refused for piece in wanted)


def does_not_fit(found: Fit, near: Fit | None) -> str:
    """What is over, by how much, on which rank, and what would fit."""
    stage = found.worst
    needed = found.stages[stage].needed / GIB
    rank = stage * found.world_size // len(found.stages)
    what = (
        f"does not fit: stage {stage} (rank {rank}) needs {needed:.1f} GiB, {needed - found.memory_gib:.1f} more than "
        f"the {found.memory_gib:.1f} of a GPU"
    )
    if near is None:
        return f"{what}; no layout of {found.world_size} of these GPUs fits: use more of them, or larger ones"
    changes = " ".join(overrides(near.settings, found.settings))
    return (
        f"{what}; the nearest layout that fits: {changes} (step {near.time.seconds:.2f} s, "
        f"{100 * near.headroom:.0f} % of the memory free)"
    )
