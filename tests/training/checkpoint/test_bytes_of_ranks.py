"""What each rank of the shipped configurations writes of a checkpoint, and what all of them read to resume."""

import pytest
import torch.distributed as dist

from editcaption_mega.conversion import local_param_shards, rules_for
from editcaption_mega.conversion.param_shards import level_owners
from editcaption_mega.conversion.rules import unique_rules
from editcaption_mega.model import Architecture, build_model
from editcaption_mega.model.pipeline_split import split_layers
from editcaption_mega.model.released import released_architecture
from editcaption_mega.settings import JobSettings, load_job
from editcaption_mega.training.checkpoint import tensors_of_rank, written_bytes
from editcaption_mega.training.megatron_optimizer import begin_state, parameter_state
from editcaption_mega.training.optimizer import build_train_state
from tests.helpers import ROOT
from tests.helpers.fake_ranks import on_fake_ranks

# Name, configuration, ranks; and the most that a rank has to write over the mean. Inside a pipeline stage ranks are
# level; what the stages themselves hold differs as their layers do (of 235B four have 14 of 94, because the first has
# the vision tower alone), so full ones hand a part over.
SHIPPED = {
    "2B": ("Qwen3-VL-2B", "sft_qwen3_vl_2b", 8, 1.05),
    "32B": ("Qwen3-VL-32B", "sft_qwen3_vl_32b", 32, 1.15),
    "235B": ("Qwen3-VL-235B-A22B", "sft_qwen3_vl_235b_a22b", 256, 1.2),
}
MOST_WRITTEN = 1.15


def test_owners_are_level():
    assert level_owners([8, 1, 1, 1, 1, 4], 2) == [0, 1, 1, 1, 1, 1]
    assert level_owners([3] * 8, 4) == [0, 1, 2, 3] * 2
    assert level_owners([], 3) == []


def bytes_of_rank(architecture: Architecture, settings: JobSettings) -> tuple[int, int]:
    """(written of a checkpoint, read to resume), of a model built for real but without values."""
    chunks = build_model(architecture, settings.model, settings.parallel, "bf16")
    shards = local_param_shards(chunks, rules_for(architecture))
    state = build_train_state(chunks, shards, settings.optimizer, precision="bf16", total_steps=1)
    for part in getattr(state.optimizer, "chained_optimizers", [state.optimizer]):
        for group in part.optimizer.param_groups:
            group["fused"] = False  # of tensors without values there is no such kernel
    begin_state(state.optimizer, 0)
    written = sum(values.nbytes for _, _, _, values in tensors_of_rank(shards, state.optimizer))
    weights = sum(shard.box.size * 2 for shard in shards if shard.owner == dist.get_rank(shard.group))
    states = [parameter_state(state.optimizer, shard.parameter) for shard in shards]
    return written, weights + sum(12 * (part.end - part.start) for part in states if part is not None)


@pytest.mark.parametrize("name", ["2B", *(pytest.param(name, marks=pytest.mark.slow) for name in list(SHIPPED)[1:])])
def test_ranks_write_about_as_much_and_read_little_more_than_there_is(name):
    """Beside that, `checkpoint.verify` reads each byte once, on the rank that wrote it. Of stages between the first and
    the last with equally many layers one stands for all."""
    model, config, world_size, most = SHIPPED[name]
    architecture, settings = released_architecture(model), load_job(ROOT / "configs" / f"{config}.yaml")
    stages = settings.parallel.pipeline_model_parallel_size
    of_stage, whole = world_size // stages, 14 * sum(rule.size for rule in unique_rules(rules_for(architecture)))
    kinds: dict[tuple[int, bool, bool], list[int]] = {}
    for stage, count in enumerate(split_layers(architecture.num_layers, settings.parallel)):
        kinds.setdefault((count, stage == 0, stage == stages - 1), []).append(stage)
    alike = {like[0]: len(like) for like in kinds.values()}
    members = [rank for stage in alike for rank in range(stage * of_stage, (stage + 1) * of_stage)]
    ranks = on_fake_ranks(
        bytes_of_rank, settings.parallel, world_size, architecture, settings, ranks=members, seconds=3600
    )
    parts = [list(zip(*ranks[first : first + of_stage], strict=True)) for first in range(0, len(ranks), of_stage)]
    fullest = max((written for written, _ in parts), key=max)
    inside = max(fullest) * of_stage / sum(fullest)
    written, read = (
        sum(sum(part[i]) * times for part, times in zip(parts, alike.values(), strict=True)) for i in (0, 1)
    )
    sizes = [size for part, times in zip(parts, alike.values(), strict=True) for size in part[0] * times]
    held, ratio = (max(each) * world_size / whole for each in (sizes, written_bytes(sizes)))
    print(f"{name}: {ratio:.3f} of the mean ({held:.3f} held), in a stage {inside:.3f}; read {read / whole:.3f}")
    assert written == whole and len(sizes) == world_size
    assert held <= most and inside <= 1.15 and ratio <= min(held, MOST_WRITTEN)
    assert read <= 1.1 * whole
