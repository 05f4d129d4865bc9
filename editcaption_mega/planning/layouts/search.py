"""Layouts ranked by predicted step time under the memory limit.

First every layout is estimated with rows of one sample and all, some or none of its layers recomputed whole. The best
few then with every row length and every module that `selective` recomputes. Both are estimates: pieces of the largest
stage stand for those of smaller ones, and the pipeline is not simulated. The best of these are put together exactly.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, is_dataclass, replace
from typing import Any

from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from .choices import (
    Groups,
    groups_that_run,
    row_lengths,
    sample_pieces,
    selective_modules,
    splits,
    virtual_sizes,
    with_groups,
    with_recompute,
    with_split,
)
from .fit import GIB, Assembly, Chunk, Fit, Rows, fit, needed_pieces, ranks_of, rows_of
from .pieces import Costs, Pieces, Ranks, StagePiece

HEADROOM = 0.08  # of a GPU's memory that stays free
_REFINED = 3  # layouts that are looked at closely
_SIMULATED = 6  # candidates beyond those asked for that are put together exactly, should the estimate's order be wrong


@dataclass(frozen=True)
class RankedLayout:
    """A layout that fits, with an estimate of its step."""

    seconds: float
    settings: JobSettings
    groups: Groups


@dataclass
class Limits:
    """What a layout may take. memory_gib: of a GPU; headroom: the share of it that stays free."""

    world_size: int
    memory_gib: float
    headroom: float = HEADROOM

    @property
    def bytes(self) -> float:
        return self.memory_gib * GIB * (1 - self.headroom)


def search(
    pieces: Pieces, settings: JobSettings, limits: Limits, *, top: int = 10, progress: Progress = no_progress
) -> list[Fit]:
    """The best layouts of this job, fastest first; none where nothing fits.

    Batch, learning rate and data are the job's; its layout, recomputation and row length are chosen."""
    architecture, world_size = pieces.architecture, limits.world_size
    every = groups_that_run(settings, architecture, world_size, limits.memory_gib * (1 - limits.headroom))
    lengths = row_lengths(settings, architecture, pieces.workload)
    alike = _Alike(pieces, every, world_size)
    best = _ranked(alike, settings, every, lengths[:1], [], limits, progress)
    chosen = list(dict.fromkeys(candidate.groups for candidate in best))[:_REFINED]
    ranked = _ranked(alike, settings, chosen, lengths, selective_modules(architecture), limits, progress)
    exact = ranked[: top + _SIMULATED]
    wanted = [
        piece
        for candidate in exact
        for piece in needed_pieces(
            candidate.settings,
            ranks_of(candidate.settings.parallel, world_size),
            rows_of(candidate.settings, architecture, pieces.workload, world_size),
        )
    ]
    pieces.execute(wanted, progress)
    fits = [fit(pieces, candidate.settings, world_size, memory_gib=limits.memory_gib) for candidate in exact]
    return sorted((f for f in fits if f.headroom >= limits.headroom), key=lambda f: f.time.seconds)[:top]


def _ranked(
    alike: "_Alike",
    settings: JobSettings,
    groups: Sequence[Groups],
    lengths: Sequence[int],
    modules: Sequence[tuple[str, ...]],
    limits: Limits,
    progress: Progress,
) -> list[RankedLayout]:
    """Candidates of these groups that fit, the fastest by the estimate first."""
    pieces = alike.pieces
    wanted = []
    for sizes in groups:
        for row in sample_pieces(settings, lengths):
            for job in recompute_choices(with_groups(row, sizes), modules):
                rows = _rows(pieces, job, limits.world_size)
                if rows is not None:
                    wanted += [
                        alike.like(p) for p in needed_pieces(job, ranks_of(job.parallel, limits.world_size), rows)
                    ]
    pieces.execute(wanted, progress)
    candidates = [c for sizes in groups for c in _candidates(alike, settings, sizes, lengths, modules, limits)]
    return sorted(candidates, key=lambda candidate: candidate.seconds)


def _rows(pieces: Any, job: JobSettings, world_size: int) -> Rows | None:
    """Rows of the job, or None where the batch is too small for it."""
    try:
        return rows_of(job, pieces.architecture, pieces.workload, world_size)
    except ValueError:
        return None


class _Alike:
    """Pieces of stages of any size from those of the largest: only the optimizer's shard depends much on it."""

    def __init__(self, pieces: Pieces, every: Sequence[Groups], world_size: int) -> None:
        self.pieces = pieces
        self.architecture, self.hardware = pieces.architecture, pieces.hardware
        self.workload = pieces.workload
        self.sizes: dict[tuple[int, int, int], int] = {}
        for groups in every:
            key = (groups.tensor, groups.expert, groups.expert_tensor)
            self.sizes[key] = max(self.sizes.get(key, 0), world_size // groups.pipeline)

    def like(self, piece: StagePiece) -> StagePiece:
        """The piece that is executed in place of this one."""
        ranks = piece.ranks
        if piece.place == "layers":
            return replace(
                piece, ranks=replace(ranks, size=self.sizes[ranks.tensor, ranks.expert, ranks.expert_tensor])
            )
        size = max(size for (tensor, _, _), size in self.sizes.items() if tensor == ranks.tensor)
        return replace(piece, ranks=Ranks(size, ranks.tensor, 1, ranks.tensor))  # no experts there

    def __getitem__(self, piece: StagePiece) -> Costs:
        like = self.like(piece)
        costs, times = self.pieces[like], like.ranks.size / piece.ranks.size
        return Costs(
            replace(costs.each, optimizer=costs.each.optimizer * times),
            replace(costs.alone, optimizer=costs.alone.optimizer * times),
        )


def recompute_choices(settings: JobSettings, modules: Sequence[tuple[str, ...]]) -> Iterator[JobSettings]:
    """The job with each kind of recomputation; of `full` a part of the layers, which needs pieces of both."""
    for vision in (False, True):
        yield with_recompute(settings, "none", vision=vision)
        for names in modules:
            yield with_recompute(settings, "selective", names, vision=vision)
        yield with_recompute(settings, "full", vision=vision, block=1)
        yield with_recompute(settings, "full", vision=vision)


def _candidates(
    pieces: Any,
    settings: JobSettings,
    groups: Groups,
    lengths: Sequence[int],
    modules: Sequence[tuple[str, ...]],
    limits: Limits,
) -> Iterator[RankedLayout]:
    """Those of one layout that fit, each with the split that is estimated as the fastest."""
    num_layers = pieces.architecture.num_layers
    for job in sample_pieces(settings, lengths):
        for virtual in virtual_sizes(groups, num_layers):
            in_layout = with_groups(job, groups, virtual)
            rows = _rows(pieces, in_layout, limits.world_size)
            if rows is None or rows.micro_batches < (groups.pipeline if virtual > 1 else 1):
                continue
            for job_again in recompute_choices(in_layout, modules):
                ranks = ranks_of(job_again.parallel, limits.world_size)
                try:
                    assembly = Assembly(pieces, job_again, ranks, rows)
                except ValueError:
                    continue  # a piece that cannot run
                yield from _best_splits(assembly, job_again, groups, virtual, limits)


def _best_splits(
    assembly: Assembly, settings: JobSettings, groups: Groups, virtual: int, limits: Limits
) -> Iterator[RankedLayout]:
    block = settings.model.recompute_method == "block"
    num_layers = assembly.pieces.architecture.num_layers
    each = _busy(assembly.kinds[-1].each)
    first, last = _busy(assembly.first.each) / each, _busy(assembly.last.each) / each
    best: RankedLayout | None = None
    for counts in splits(num_layers, groups.pipeline, virtual, first, last):
        again = _least_recomputed(assembly, counts, limits) if block else 1
        if again is None:
            continue
        stages = assembly.stages(counts, again)
        if not block and not _fits(assembly, stages, limits):
            continue
        seconds = estimate(stages, assembly.rows.micro_batches)
        if best is None or seconds < best.seconds:
            job = with_split(settings, counts)
            if block:
                job = replace(job, model=replace(job.model, recompute_num_layers=again))
            best = RankedLayout(seconds, job, groups)
    if best is not None:
        yield best


def _busy(part: Any) -> float:
    seconds: float = part.forward.seconds + part.backward.seconds
    return seconds


def _fits(assembly: Assembly, stages: Sequence[Sequence[Chunk]], limits: Limits) -> bool:
    return max(stage.needed for stage in assembly.memory(stages, limits.world_size)) <= limits.bytes


def _least_recomputed(assembly: Assembly, counts: Sequence[int], limits: Limits) -> int | None:
    """The fewest layers of each chunk that must be recomputed, fewer than all; None where that is not enough."""
    low, high = 1, max(counts)
    if high < 2 or not _fits(assembly, assembly.stages(counts, high), limits):
        return None
    while low < high:
        middle = (low + high) // 2
        if _fits(assembly, assembly.stages(counts, middle), limits):
            high = middle
        else:
            low = middle + 1
    return low


def estimate(stages: Sequence[Sequence[Chunk]], micro_batches: int) -> float:
    """Seconds of a step: the slowest stage works through, the others fill and drain the pipeline."""
    virtual = len(stages[0])
    loads = [sum(_busy(chunk.total) for chunk in chunks) for chunks in stages]
    slowest = max(loads)
    around = max(sum(c.total.before.seconds + c.total.after.seconds for c in chunks) for chunks in stages)
    return micro_batches * slowest + (sum(loads) - slowest) / virtual + around


def overrides(settings: JobSettings, given: JobSettings) -> list[str]:
    """What differs from the given settings, as key=value."""
    return list(_differences(settings, given, ""))


def _differences(mine: Any, given: Any, prefix: str) -> Iterator[str]:
    for entry in fields(mine):
        a, b = getattr(mine, entry.name), getattr(given, entry.name)
        if is_dataclass(a):
            yield from _differences(a, b, f"{prefix}{entry.name}.")
        elif a != b:
            yield f"{prefix}{entry.name}={_text(a)}"


def _text(value: Any) -> str:
    if isinstance(value, list):
        return f"[{','.join(map(_text, value))}]"
    return "null" if value is None else str(value).lower() if isinstance(value, bool) else str(value)
