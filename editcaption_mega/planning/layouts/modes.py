"""The other depths of a plan: `fit` of one configuration and `search` of all layouts, whose best are executed; each as
lines, JSON and whether something fits."""

from collections.abc import Sequence
from typing import Any, NamedTuple

from editcaption_mega.model import Architecture
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from ..plan import JobPlan, make_plan
from ..timing.hardware import Hardware
from ..workload import Workload
from .fit import Fit, fit
from .fit_text import (
    Executed,
    dropped_lines,
    executed_json,
    fit_json,
    fit_lines,
    fit_summary,
    table_lines,
)
from .nearest import does_not_fit, nearest
from .pieces import Pieces
from .search import HEADROOM, Limits, search


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
    with job.pieces() as pieces:
        found = fit(pieces, job.settings, job.world_size, memory_gib=job.memory_gib)
        problem = "" if found.headroom >= 0 else sentence(job, pieces, found, progress)
    lines = [*fit_lines(found), fit_summary(found)]
    return QuickAnswer(lines, fit_json(found, job.settings), problem)


def sentence(job: PlannedJob, pieces: Pieces, found: Fit, progress: Progress = no_progress) -> str:
    """What of a fit is over, and the nearest layout that fits."""
    return does_not_fit(found, nearest(pieces, job.settings, Limits(job.world_size, job.memory_gib), progress))


def best_layouts(job: PlannedJob, top: int, progress: Progress = no_progress) -> QuickAnswer:
    """The best layouts by their fit, each then executed for every rank role, against the given one where that runs.

    One that does not fit when it is executed is left out, with a line."""
    with job.pieces() as pieces:
        try:
            given = fit(pieces, job.settings, job.world_size, memory_gib=job.memory_gib)
        except ValueError:
            given = None
        limits = Limits(job.world_size, job.memory_gib)
        fits = search(pieces, job.settings, limits, top=top, progress=progress)
    executed = [Executed(each, executed_plan(job, each.settings, progress)) for each in fits]
    return executed_answer(job, given, executed)


def executed_answer(job: PlannedJob, given: Fit | None, executed: Sequence[Executed]) -> QuickAnswer:
    """Layouts that were executed: those that fit, fastest first, and those that are left out."""
    fitting = sorted((each for each in executed if each.plan.fits), key=lambda each: each.plan.time.seconds)
    dropped = [each for each in executed if not each.plan.fits]
    problem = ""
    if not fitting:
        free = f"{100 * HEADROOM:.0f} % of {job.memory_gib:.1f} GiB free"
        problem = f"no layout of {job.world_size} of these GPUs leaves {free}: use more of them, or larger ones"
    json = {
        "given": None if given is None else fit_json(given, job.settings),
        "layouts": [executed_json(each, job.settings) for each in fitting],
        "dropped": [executed_json(each, job.settings) for each in dropped],
    }
    lines = [*table_lines(fitting, given, job.settings), *dropped_lines(dropped, job.settings)]
    return QuickAnswer(lines, json, problem)


def executed_plan(job: PlannedJob, settings: JobSettings, progress: Progress = no_progress) -> JobPlan:
    """The dry run of the job in another layout."""
    return make_plan(
        settings, job.architecture, job.workload, job.world_size, job.hardware,
        memory_gib=job.memory_gib, imbalance=job.imbalance, progress=progress,
    )  # fmt: skip
