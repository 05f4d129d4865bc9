"""The quick depths of a plan: `fit` of one configuration and `search` of all layouts, each as lines, JSON and whether
something fits."""

from typing import Any, NamedTuple

from editcaption_mega.model import Architecture
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from ..timing.hardware import Hardware
from ..workload import Workload
from .fit import Fit, fit
from .fit_text import fit_json, fit_lines, fit_summary, table_lines
from .nearest import does_not_fit, nearest
from .pieces import Pieces
from .search import Limits, search


class PlannedJob(NamedTuple):
    """What is planned, and for which GPUs."""

    settings: JobSettings
    architecture: Architecture
    workload: Workload
    world_size: int
    hardware: Hardware
    memory_gib: float
    imbalance: float = 1.0

    def pieces(self) -> Pieces:
        return Pieces(self.settings, self.architecture, self.workload, self.hardware, self.imbalance)


class QuickAnswer(NamedTuple):
    """What a depth found. problem: the sentence of what does not fit, or empty."""

    lines: list[str]
    json: dict[str, Any]
    problem: str = ""


def quick_fit(job: PlannedJob, progress: Progress = no_progress) -> QuickAnswer:
    """The given layout, and where it does not fit, the nearest one that does. Raises ValueError as `fit`."""
    pieces = job.pieces()
    found = fit(pieces, job.settings, job.world_size, memory_gib=job.memory_gib)
    lines = [*fit_lines(found), fit_summary(found)]
    problem = "" if found.headroom >= 0 else sentence(job, pieces, found, progress)
    return QuickAnswer(lines, fit_json(found, job.settings), problem)


def sentence(job: PlannedJob, pieces: Pieces, found: Fit, progress: Progress = no_progress) -> str:
    """What of a fit is over, and the nearest layout that fits."""
    return does_not_fit(found, nearest(pieces, job.settings, Limits(job.world_size, job.memory_gib), progress))


def best_layouts(job: PlannedJob, top: int, progress: Progress = no_progress) -> QuickAnswer:
    """The best layouts, against the given one where that runs on these GPUs."""
    pieces = job.pieces()
    try:
        given = fit(pieces, job.settings, job.world_size, memory_gib=job.memory_gib)
    except ValueError:
        given = None
    limits = Limits(job.world_size, job.memory_gib)
    fits = search(pieces, job.settings, limits, top=top, progress=progress)
    problem = ""
    if not fits:
        free = f"{100 * limits.headroom:.0f} % of {job.memory_gib:.1f} GiB free"
        problem = f"no layout of {job.world_size} of these GPUs leaves {free}: use more of them, or larger ones"
    json = {
        "given": None if given is None else fit_json(given, job.settings),
        "layouts": [fit_json(found, job.settings) for found in fits],
    }
    return QuickAnswer(list(table_lines(fits, given, job.settings)), json, problem)
