"""What a rank writes of a checkpoint: its ranges of weights and optimizer state, and its random states."""

from collections.abc import Iterator
from typing import NamedTuple

import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from editcaption_mega.conversion import WEIGHTS, Box, ParamShard
from editcaption_mega.conversion.rules import Shape

from ..megatron_optimizer import MASTER, MOMENTS, parameter_state
from .random_state import random_states


class StoredRange(NamedTuple):
    """Values [n] of a checkpoint: elements from `start` of a box of tensor `key`, flattened."""

    key: str
    shape: Shape  # of the whole tensor
    box: Box
    start: int
    values: Tensor


def stored_ranges(param_shards: list[ParamShard], optimizer: MegatronOptimizer) -> Iterator[StoredRange]:
    """What this rank writes of a checkpoint: weights, moments and its random states. After `finish_gathers`."""
    for name, shard, start, values in tensors_of_rank(param_shards, optimizer):
        yield StoredRange(name + shard.rule.name, shard.rule.shape, shard.box, start, values)
    for key, values in random_states().items():
        shape = tuple(values.shape)
        yield StoredRange(key, shape, Box.whole(shape), 0, values)


def tensors_of_rank(
    param_shards: list[ParamShard], optimizer: MegatronOptimizer
) -> Iterator[tuple[str, ParamShard, int, Tensor]]:
    """(prefix of the name, shard, start, values [n]) of what this rank writes: elements from `start` of a shard's box.

    Weights lie on all data-parallel ranks, and the owner of each writes it; of the optimizer's state a rank writes the
    ranges that are its own. So nothing is gathered, and nothing allocated on the device."""
    written = [shard for shard in param_shards if shard.writer]
    for shard in written:
        if shard.owner == dist.get_rank(shard.group):
            yield WEIGHTS, shard, 0, shard.parameter.data.flatten()
    for shard in written:
        state = parameter_state(optimizer, shard.parameter) if shard.parameter.requires_grad else None
        if state is None:
            continue
        # An fp32 run keeps no second copy of its weights.
        for name in MOMENTS + ((MASTER,) if shard.parameter.dtype != torch.float32 else ()):
            yield f"{name}/", shard, state.start, state.tensors[name].detach().flatten()
