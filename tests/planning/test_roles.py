"""Which ranks stand for all others."""

import pytest

from editcaption_mega.planning.roles import Role, distinct_roles
from editcaption_mega.settings import load_job
from tests.helpers import ROOT


def roles_of(world_size: int, **parallel: int) -> list[Role]:
    overrides = [f"parallel.{name}_model_parallel_size={size}" for name, size in parallel.items()]
    return distinct_roles(load_job(ROOT / "configs/sft_qwen3_vl_2b.yaml", overrides), world_size)


@pytest.mark.parametrize("world_size", [1, 8, 512])
def test_without_a_pipeline_one_rank_stands_for_all(world_size):
    assert roles_of(world_size, pipeline=1) == [Role("every rank", 0)]


@pytest.mark.parametrize(("world_size", "stages", "tensor"), [(4, 4, 1), (16, 2, 4), (64, 8, 2), (12, 3, 2)])
def test_of_each_stage_there_is_one_rank_and_that_is_in_it(world_size, stages, tensor):
    """Ranks of a stage follow each other, since the pipeline is the outermost dimension of Megatron's order."""
    roles = roles_of(world_size, pipeline=stages, tensor=tensor)
    assert [role.name for role in roles] == [f"stage {stage}" for stage in range(stages)]
    per_stage = world_size // stages
    assert [role.rank // per_stage for role in roles] == list(range(stages))
    assert all(role.rank % per_stage == 0 for role in roles)
