"""A whole optimizer step of a job, executed for each rank that differs from the others, in a process of its own."""

from collections.abc import Sequence
from concurrent.futures import as_completed
from typing import NamedTuple

from editcaption_mega.model import Architecture
from editcaption_mega.process_pool import ProcessPool, cores
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import JobSettings

from .dry_run.rank_step import RankRecord, execute_step, join_alone
from .workload import Workload, planned_step


class Role(NamedTuple):
    """A rank that stands for all of its kind."""

    name: str
    rank: int


def distinct_roles(settings: JobSettings, world_size: int) -> list[Role]:
    """The ranks of a job that differ in what they hold or compute: one of each pipeline stage.

    Tensor-parallel ranks share rows evenly, pictures about so (the first has the largest), data-parallel ones compute
    as much as each other, and an expert-parallel one gets the tokens that `imbalance` says: one stands for all."""
    stages = settings.parallel.pipeline_model_parallel_size
    if stages == 1:
        return [Role("every rank", 0)]
    return [Role(f"stage {stage}", stage * (world_size // stages)) for stage in range(stages)]


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
    arguments = (settings, architecture, workload, world_size)
    with ProcessPool(min(len(roles), cores()), "executes a rank", preload=__name__, tasks_each=1) as pool:
        # The longest first, which are the early stages.
        futures = {pool.submit(_execute, *arguments, role.rank, imbalance): i for i, role in enumerate(roles)}
        records: dict[int, RankRecord] = {}
        for future in progress(as_completed(futures), len(futures), "rank roles"):
            records[futures[future]] = future.result()
    return [records[i] for i in range(len(roles))]


def _execute(
    settings: JobSettings, architecture: Architecture, workload: Workload, world_size: int, rank: int, imbalance: float
) -> RankRecord:
    from editcaption_mega.training.adapter_state import chosen_adapters
    from editcaption_mega.training.setup import rank_share

    join_alone(rank, world_size, settings)
    step = planned_step(settings, architecture, workload, rank_share(settings.parallel, on_gpu=True))
    return execute_step(settings, architecture, step, chosen_adapters(settings, architecture), imbalance=imbalance)
