"""Layouts ranked by predicted step time under the memory limit: best first, within bounds.

A layout here is sizes of groups, a row length and virtual stages. What it takes at least is known from a few executed
pieces (`bounds`); layouts are looked at in that order until the next one cannot be faster than those that are there.
Looked at means: the splits of the layers that come out most level, of a job that delays weight gradients with several
counts of those that wait, without recomputation, and only where that does not fit with each kind of it; a twin that
recomputes what would fit is slower and is not looked at. Pieces of the largest stage stand for those of smaller ones
(`alike`); the best layouts are then put together exactly.
"""

import heapq
import math
import os
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import count

from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from .alike import Alike
from .bounds import in_longer_rows, least_seconds
from .choices import (
    Groups,
    delays,
    groups_that_run,
    recompute_choices,
    row_lengths,
    selective_modules,
    splits,
    tilted,
    virtual_sizes,
    with_groups,
    with_recompute,
    with_row_length,
    with_split,
)
from .fit import GIB, Assembly, Chunk, Fit, Rows, fit, needed_pieces, ranks_of, rows_of
from .pieces import Pieces, StagePiece

HEADROOM = 0.08  # of a GPU's memory that stays free
_SIMULATED = 3  # splits of a layout whose pipeline is simulated, the fastest by an estimate
_ESTIMATE_OVER = 0.9  # of the estimate a simulated step takes at least
_CLOSE = 1.03  # layouts are put together exactly if they may be among those asked for, should `alike` be so far off
_MOST_EXACT = 4  # beyond those asked for


@dataclass
class Limits:
    """What a layout may take. memory_gib: of a GPU; headroom: the share of it that stays free."""

    world_size: int
    memory_gib: float
    headroom: float = HEADROOM

    @property
    def bytes(self) -> float:
        return self.memory_gib * GIB * (1 - self.headroom)


@dataclass
class _Layout:
    """Where the search has yet to look. again: with recomputation, because without it does not fit."""

    job: JobSettings
    groups: Groups
    rows: Rows
    known: bool  # its own pieces say what it takes at least, and not those of rows of one sample
    again: bool = False


def search(
    pieces: Pieces,
    settings: JobSettings,
    limits: Limits,
    *,
    top: int = 10,
    groups: Sequence[Groups] | None = None,
    progress: Progress = no_progress,
) -> list[Fit]:
    """The best layouts of this job, fastest first; none where nothing fits.

    Batch, learning rate and data are the job's; its layout, recomputation and row length are chosen. groups: those to
    choose from, by default all that can run."""
    if groups is None:
        most = limits.memory_gib * (1 - limits.headroom)
        groups = groups_that_run(settings, pieces.architecture, limits.world_size, most)
    close = _Search(pieces, settings, limits, groups, progress).best(top)
    pieces.execute([piece for job in close for piece in _pieces_of(pieces, job, limits.world_size)], progress)
    fits = [fit(pieces, job, limits.world_size, memory_gib=limits.memory_gib) for job in close]
    return sorted((f for f in fits if f.headroom >= limits.headroom), key=lambda f: f.time.seconds)[:top]


def _pieces_of(pieces: Pieces, job: JobSettings, world_size: int) -> list[StagePiece]:
    rows = rows_of(job, pieces.architecture, pieces.workload, world_size)
    return needed_pieces(job, ranks_of(job.parallel, world_size), rows)


class _Search:
    """The layouts of a job that are still to be looked at, and what was seen."""

    def __init__(
        self, pieces: Pieces, settings: JobSettings, limits: Limits, groups: Sequence[Groups], progress: Progress
    ) -> None:
        self.settings, self.limits, self.groups, self.progress = settings, limits, groups, progress
        self.alike = Alike(pieces, groups, limits.world_size)
        self.architecture = pieces.architecture
        self.lengths = row_lengths(settings, pieces.architecture, pieces.workload)
        self.queue: list[tuple[float, int, _Layout]] = []  # by the least seconds
        self.numbers = count()
        self._rows: dict[tuple[int, ...], Rows | None] = {}

    def best(self, top: int) -> list[JobSettings]:
        """Those that may be among the fastest, by pieces that are alike."""
        self._begin()
        fits: list[Fit] = []
        while self.queue:
            enough = fits[top - 1].time.seconds * _CLOSE if len(fits) >= top else math.inf
            chosen = self._next(enough)
            if not chosen:
                break
            self.alike.execute([piece for layout in chosen for piece in self._wanted(layout)], self.progress)
            for layout in chosen:
                if layout.known:
                    fits += self._look_at(layout, enough)
                else:
                    self._put(replace(layout, known=True))
            fits = sorted(fits, key=lambda each: each.time.seconds)[: top + _MOST_EXACT]
        slowest = fits[:top][-1].time.seconds if fits else 0.0
        return [each.settings for each in fits if each.time.seconds <= _CLOSE * slowest]

    def _begin(self) -> None:
        """Every layout, with what it takes at least by the pieces of rows of one sample."""
        layouts = []
        for place, length in enumerate(self.lengths):
            for groups in self.groups:
                for virtual in virtual_sizes(groups, self.architecture.num_layers):
                    job = with_row_length(with_groups(self.settings, groups, virtual), length)
                    job = with_recompute(job, "none", vision=False)
                    rows = self.rows(job)
                    # A row that does not get more samples than a shorter one is the same again.
                    if rows is None or rows.samples <= place or (virtual > 1 and rows.micro_batches < groups.pipeline):
                        continue
                    layouts.append(_Layout(job, groups, rows, known=place == 0))
        shortest = [piece for layout in layouts if layout.known for piece in self._pieces(layout.job)]
        self.alike.execute(shortest, self.progress)
        for layout in layouts:
            self._put(layout)

    def _next(self, enough: float) -> list[_Layout]:
        """Those that could take less than `enough`, as many as keep the processors busy."""
        chosen: list[_Layout] = []
        while self.queue and self.queue[0][0] < enough and len(chosen) < 2 * (os.cpu_count() or 1):
            chosen.append(heapq.heappop(self.queue)[2])
        return chosen

    def _put(self, layout: _Layout) -> None:
        """Into the queue, unless a piece of it cannot run."""
        job = layout.job if layout.known else with_row_length(layout.job, self.lengths[0])
        if all(map(self.alike.runs, self._pieces(job))):
            least = self._least(self._assembly(job), layout)
            heapq.heappush(self.queue, (least, next(self.numbers), layout))

    def _assembly(self, job: JobSettings) -> Assembly:
        rows = self.rows(job)
        assert rows is not None, "layouts without rows are not looked at"
        return Assembly(self.alike, job, ranks_of(job.parallel, self.limits.world_size), rows)

    def _wanted(self, layout: _Layout) -> list[StagePiece]:
        return [piece for job in self._jobs(layout) for piece in self._pieces(job)]

    def _jobs(self, layout: _Layout) -> list[JobSettings]:
        """The kinds of recomputation that are looked at now."""
        if not layout.again:
            return [layout.job]
        return list(recompute_choices(layout.job, selective_modules(self.architecture)))[1:]

    def _pieces(self, job: JobSettings) -> list[StagePiece]:
        rows = self.rows(job)
        assert rows is not None, "layouts without rows are not looked at"
        return needed_pieces(job, ranks_of(job.parallel, self.limits.world_size), rows)

    def rows(self, job: JobSettings) -> Rows | None:
        """The rows of the job, or None where its batch is too small."""
        parallel, world_size = job.parallel, self.limits.world_size
        ranks = (parallel.data_parallel_size(world_size), parallel.tensor_model_parallel_size)
        key = (*ranks, parallel.sequence_multiple, job.data.sequence_length)
        if key not in self._rows:
            try:
                self._rows[key] = rows_of(job, self.architecture, self.alike.workload, world_size)
            except ValueError:
                self._rows[key] = None
        return self._rows[key]

    def _look_at(self, layout: _Layout, enough: float) -> list[Fit]:
        """The fastest of a layout, of its splits and of the kinds of recomputation that are looked at; none where
        nothing fits, and where nothing takes less than `enough` seconds."""
        best: list[Fit] = []
        fitting = False
        for job in self._jobs(layout):
            if not all(map(self.alike.runs, self._pieces(job))):
                continue
            assembly = self._assembly(job)
            if layout.again and self._least(assembly, layout) >= enough:
                continue
            made = self._splits(assembly, layout.groups)
            fitting = fitting or bool(made)
            for seconds, jobs in made[:_SIMULATED]:
                if _ESTIMATE_OVER * seconds >= enough:
                    break
                for split in jobs:
                    each = assembly.fit(self.limits.world_size, self.limits.memory_gib, split)
                    if each.time.seconds < enough:
                        best, enough = [each], each.time.seconds
        if not fitting and not layout.again:
            self._put(replace(layout, again=True))
        return best

    def _least(self, assembly: Assembly, layout: _Layout) -> float:
        """Seconds that a step of the layout takes at least, by pieces of its own rows or of rows of one sample."""
        parallel = layout.job.parallel
        layer = min((kind.each for kind in assembly.kinds), key=lambda part: part.busy)
        parts = [assembly.first.each, layer, assembly.last.each]
        if not layout.known:
            parts = [in_longer_rows(part, layout.rows.samples) for part in parts]
        return least_seconds(
            *parts, layers=self.architecture.num_layers, micro_batches=layout.rows.micro_batches,
            stages=parallel.pipeline_model_parallel_size, virtual=parallel.virtual_pipeline_model_parallel_size or 1,
        )  # fmt: skip

    def _splits(self, assembly: Assembly, groups: Groups) -> list[tuple[float, list[JobSettings]]]:
        """The jobs with each split that fits or with one as level, by the least of their estimated seconds."""
        settings = assembly.settings
        virtual = settings.parallel.virtual_pipeline_model_parallel_size or 1
        block = settings.model.recompute_method == "block"
        layer = assembly.kinds[-1].each.busy
        ends = (assembly.first.each.busy / layer, assembly.last.each.busy / layer)
        made = []
        for counts in splits(self.architecture.num_layers, groups.pipeline, virtual, *ends):
            fitting: list[JobSettings] = []
            least = math.inf
            for split, job in self._alike(settings, counts, groups):
                again = least_recomputed(assembly, split, self.limits, job) if block else 1
                if again is None:
                    continue
                stages = assembly.stages(split, again)
                if block:
                    job = replace(job, model=replace(job.model, recompute_num_layers=again))
                elif not fits_memory(assembly, stages, self.limits, job):
                    continue
                fitting.append(job)
                least = min(least, estimate(stages, assembly.rows.micro_batches))
            if fitting:
                made.append((least, fitting))
        return sorted(made, key=lambda pair: pair[0])

    @staticmethod
    def _alike(
        settings: JobSettings, counts: Sequence[int], groups: Groups
    ) -> Iterator[tuple[Sequence[int], JobSettings]]:
        """Splits as level as this one, and the jobs with each of them."""
        for split in tilted(counts, groups.pipeline):
            for job in delays(with_split(settings, split)):
                yield split, job


def fits_memory(assembly: Assembly, stages: Sequence[Sequence[Chunk]], limits: Limits, job: JobSettings) -> bool:
    return max(stage.needed for stage in assembly.memory(stages, limits.world_size, job.parallel)) <= limits.bytes


def least_recomputed(assembly: Assembly, counts: Sequence[int], limits: Limits, job: JobSettings) -> int | None:
    """The fewest layers of each chunk that must be recomputed, fewer than all; None where that is not enough."""
    low, high = 1, max(counts) - 1
    if high < 1 or not fits_memory(assembly, assembly.stages(counts, high), limits, job):
        return None
    while low < high:
        middle = (low + high) // 2
        if fits_memory(assembly, assembly.stages(counts, middle), limits, job):
            high = middle
        else:
            low = middle + 1
    return low


def estimate(stages: Sequence[Sequence[Chunk]], micro_batches: int) -> float:
    """Seconds of a step: the slowest stage works through, the others fill and drain the pipeline. Weight gradients that
    are made later hold nothing up."""
    virtual = len(stages[0])
    loads = [sum(chunk.total.busy for chunk in chunks) for chunks in stages]
    slowest = max(loads)
    draining = sum(chunk.total.draining for chunks in stages for chunk in chunks) / sum(loads)
    around = max(sum(c.total.before.seconds + c.total.after.seconds for c in chunks) for chunks in stages)
    return micro_batches * slowest + draining * (sum(loads) - slowest) / virtual + around
