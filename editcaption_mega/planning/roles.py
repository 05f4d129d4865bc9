"""A whole optimizer step of a job, executed for each rank that differs from the others, in a process of its own."""

import math
import multiprocessing
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from typing import NamedTuple

from editcaption_mega.data.batching.image_batch import assign_images
from editcaption_mega.data.batching.packing import RankShare
from editcaption_mega.model import Architecture
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from .dry_run.rank_step import RankRecord, execute_step, join_alone
from .workload import Workload, planned_step, samples


class Role(NamedTuple):
    """A rank that stands for all of its kind."""

    name: str
    rank: int


def distinct_roles(
    settings: JobSettings, architecture: Architecture, workload: Workload, world_size: int
) -> list[Role]:
    """The ranks of a job that differ in what they hold or compute.

    Stages differ. On the first one so do tensor-parallel ranks with more and with fewer pictures: the fullest and the
    emptiest are taken. Data-parallel ranks compute as much as each other; an expert-parallel rank gets the tokens that
    `imbalance` says, so one stands for all."""
    parallel = settings.parallel
    stages, tensor = parallel.pipeline_model_parallel_size, parallel.tensor_model_parallel_size
    per_stage = world_size // stages
    sharing = tensor if parallel.use_sequence_parallel else 1
    loads = _picture_loads(settings, architecture, workload, world_size, sharing)
    fullest, emptiest = loads.index(max(loads)), loads.index(min(loads))
    roles = [Role("stage 0" if stages > 1 else "every rank", fullest)]
    if loads[fullest] != loads[emptiest]:
        roles = [
            Role(f"stage 0, most pictures ({loads[fullest]:,} patches a row)", fullest),
            Role(f"stage 0, fewest pictures ({loads[emptiest]:,} patches a row)", emptiest),
        ]
    return roles + [Role(f"stage {stage}", stage * per_stage) for stage in range(1, stages)]


def _picture_loads(
    settings: JobSettings, architecture: Architecture, workload: Workload, world_size: int, ranks: int
) -> list[int]:
    """Patches of each tensor-parallel rank in the first row of the first data-parallel rank."""
    share = RankShare(
        data_parallel_size=settings.parallel.data_parallel_size(world_size),
        sequence_multiple=settings.parallel.sequence_multiple,
        with_images=False,
    )
    step = planned_step(settings, architecture, workload, share)
    names = set(step.micro_batches[0].sample_ids)
    pictures = [s for s in samples(settings, architecture, workload) if s.id in names]
    grids = [grid for sample in pictures for grid in sample.grids]
    return [sum(math.prod(grids[i]) for i in held) for held in assign_images(grids, ranks)]


def execute_roles(
    settings: JobSettings,
    architecture: Architecture,
    workload: Workload,
    world_size: int,
    roles: Sequence[Role],
    *,
    imbalance: float = 1.0,
    progress: Progress = no_progress,
) -> list[RankRecord]:
    """What was seen of each role, in their order. As many run at once as there are processors.

    Raises what the execution raised: ValueError for settings that cannot run."""
    # The server of forks has imported what every rank imports, and nothing else.
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__])
    workers = min(len(roles), os.cpu_count() or 1)
    arguments = (settings, architecture, workload, world_size)
    with ProcessPoolExecutor(workers, mp_context=context, max_tasks_per_child=1) as pool:
        # The longest first, which are the early stages.
        futures = {pool.submit(_execute, *arguments, role.rank, imbalance): i for i, role in enumerate(roles)}
        records: dict[int, RankRecord] = {}
        try:
            for future in progress(as_completed(futures), len(futures), "rank roles"):
                records[futures[future]] = future.result()
        except BaseException:
            pool.shutdown(wait=False, cancel_futures=True)
            raise
    return [records[i] for i in range(len(roles))]


def _execute(
    settings: JobSettings, architecture: Architecture, workload: Workload, world_size: int, rank: int, imbalance: float
) -> RankRecord:
    from editcaption_mega.training.setup import rank_share

    join_alone(rank, world_size, settings)
    step = planned_step(settings, architecture, workload, rank_share(settings.parallel))
    return execute_step(settings, architecture, step, imbalance=imbalance)
