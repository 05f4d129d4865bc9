"""Optimizer state and random states out of a checkpoint of any layout."""

from collections.abc import Collection
from pathlib import Path
from typing import Any

import torch
from megatron.core.optimizer import MegatronOptimizer

from editcaption_mega import platform
from editcaption_mega.conversion import WEIGHTS, LocalCopies, ParamShard, StoreReader
from editcaption_mega.settings import JobSettings

from ..megatron_optimizer import MASTER, begin_state, parameter_state
from .random_state import rank_layout, restore_random_states


def load_optimizer(
    folder: Path,
    state: dict[str, Any],
    param_shards: list[ParamShard],
    optimizer: MegatronOptimizer,
    local: LocalCopies | None = None,
    thawed: Collection[str] = (),
) -> None:
    """Moments, master weights and step counters of this rank's share of the optimizer, from any layout's checkpoint.
    local: copies of its files on the nodes. thawed: modules of which it has no moments, because they were frozen: these
    begin at zero.

    Collective: all ranks raise alike."""
    with platform.together():
        _load_optimizer(StoreReader(folder, local), state["updates"], param_shards, optimizer, thawed)


def local_copies(settings: JobSettings) -> LocalCopies | None:
    """Of what this rank writes of the run's checkpoints, where the settings ask for them."""
    checkpoint = settings.checkpoint
    if not checkpoint.local_folder:
        return None
    return LocalCopies(checkpoint.local_folder, settings.training.output, rank_layout(), verified=checkpoint.verify)


def _load_optimizer(
    store: StoreReader,
    updates: int,
    param_shards: list[ParamShard],
    optimizer: MegatronOptimizer,
    thawed: Collection[str],
) -> None:
    begin_state(optimizer, updates)
    for shard in param_shards:
        state = parameter_state(optimizer, shard.parameter)
        if state is None:
            continue
        with torch.no_grad():
            for name, tensor in state.tensors.items():
                if name != MASTER and shard.rule.module in thawed:
                    tensor.zero_()
                    continue
                key = f"{name}/{shard.rule.name}"
                if name == MASTER and key not in store.tensors:
                    # An fp32 run keeps no second copy, and a frozen module needs none: the weight is the master.
                    key = WEIGHTS + shard.rule.name
                values = store.read_range(key, shard.box, state.start, state.end)
                tensor.copy_(values.view(tensor.shape))


def load_random_state(folder: Path, local: LocalCopies | None = None) -> bool:
    """Restore this rank's generators. False when the checkpoint is of another layout, which has other ranks.

    Collective: all ranks raise alike."""
    with platform.together():
        return restore_random_states(StoreReader(folder, local))
