"""Which box of which canonical tensor each local parameter is."""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import product

import torch
import torch.distributed as dist
from torch import Tensor

from editcaption_mega.kernels.transposes import copy_values
from editcaption_mega.model import ADAPTERS

from .rules import Box, Rule

_LAYER = re.compile(r"^language\.decoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class ParamShard:
    """A parameter of this rank: its rule, its box of the canonical tensor, and who else holds the same box.

    `writer`: this rank's data-parallel group writes it. `owner`: the rank of that group that reads and writes its
    weights for the others."""

    parameter: torch.nn.Parameter
    name: str
    rule: Rule
    box: Box
    writer: bool
    is_expert: bool
    owner: int = 0

    @property
    def group(self) -> dist.ProcessGroup:
        """The ranks that hold the same box, each with a part of its optimizer state."""
        from megatron.core import parallel_state  # conversions need no Megatron-Core

        of = parallel_state.get_expert_data_parallel_group if self.is_expert else parallel_state.get_data_parallel_group
        group: dist.ProcessGroup = of()
        return group

    def view(self, local: Tensor) -> Tensor:
        """A tensor of the parameter's size, in the form of its box."""
        return local.view(self.box.shape)


def local_param_shards(chunks: list[torch.nn.Module], rules: Mapping[str, Rule]) -> list[ParamShard]:
    """Every parameter of this rank's chunks, in a fixed order; those of adapters where the rules are theirs, and of
    nothing else then. A parameter without a rule is a broken invariant."""
    from megatron.core import parallel_state

    from editcaption_mega.model import unwrap

    of_adapters = any(ADAPTERS in name for name in rules)
    tensor = parallel_state.get_tensor_model_parallel_rank(), parallel_state.get_tensor_model_parallel_world_size()
    expert = parallel_state.get_expert_model_parallel_rank(), parallel_state.get_expert_model_parallel_world_size()
    expert_tensor = (
        parallel_state.get_expert_tensor_parallel_rank(),
        parallel_state.get_expert_tensor_parallel_world_size(),
    )
    param_shards = []
    for chunk in chunks:
        model = unwrap(chunk)
        layers = {str(i): layer.layer_number - 1 for i, layer in enumerate(model.language.decoder.layers)}
        for local_name, parameter in model.named_parameters():
            name = _global_name(local_name, layers)
            if (ADAPTERS in name) != of_adapters:
                continue
            assert name in rules, f"parameter {name} has no weight rule"
            rule = rules[name]
            box = Box.whole(rule.shape)
            splits = (rule.tensor_axis, tensor), (rule.expert_axis, expert), (rule.expert_tensor_axis, expert_tensor)
            for axis, (rank, size) in splits:
                if axis is not None:
                    box = _part(box, axis, rank, size)
            assert box.size == parameter.numel(), f"{name}: {tuple(parameter.shape)} is not the box {box.shape}"
            is_expert = rule.expert_axis is not None
            param_shards.append(ParamShard(parameter, name, rule, box, name == rule.name, is_expert))
    return _with_owners(_with_writers(param_shards, *tensor, expert_tensor[0]))


def level_owners(sizes: Sequence[int], count: int) -> list[int]:
    """Which of `count` ranks takes each piece of work, such that all have about as much: the largest pieces first, each
    by the rank that has least."""
    loads, owners = [0] * count, [0] * len(sizes)
    for i in sorted(range(len(sizes)), key=lambda i: -sizes[i]):
        owners[i] = min(range(count), key=loads.__getitem__)
        loads[owners[i]] += sizes[i]
    return owners


def owned(param_shards: list[ParamShard]) -> Iterator[ParamShard]:
    """Those that this rank reads for the others."""
    return (shard for shard in param_shards if shard.owner == dist.get_rank(shard.group))


def fill(shard: ParamShard, values: Tensor) -> None:
    """values: the box of the shard."""
    with torch.no_grad():
        copy_values(shard.view(shard.parameter.data), values)


def send(shard: ParamShard) -> None:
    """From the owner to the others of its group, where there are others. Collective."""
    if dist.get_world_size(shard.group) > 1:
        content = shard.parameter.data.view(-1).view(torch.uint8)  # gloo does not know every dtype
        dist.broadcast(content, dist.get_global_rank(shard.group, shard.owner), shard.group)


def _with_writers(param_shards: list[ParamShard], rank: int, size: int, expert_rank: int) -> list[ParamShard]:
    """What all tensor-parallel ranks hold (vision, norms, routers) is written by one of them, by turns. Of experts,
    what all expert-tensor-parallel ranks hold by the first; expert_rank: the number of this one."""
    replicated = [
        i for i, shard in enumerate(param_shards)
        if shard.writer and not shard.is_expert and shard.rule.tensor_axis is None
    ]  # fmt: skip
    writers = level_owners([param_shards[i].box.size for i in replicated], size)
    elsewhere = {i for i, writer in zip(replicated, writers, strict=True) if writer != rank}
    if expert_rank:
        elsewhere |= {
            i for i, shard in enumerate(param_shards) if shard.is_expert and shard.rule.expert_tensor_axis is None
        }
    return [replace(shard, writer=shard.writer and i not in elsewhere) for i, shard in enumerate(param_shards)]


def _with_owners(param_shards: list[ParamShard]) -> list[ParamShard]:
    """Owners of weights, levelled among what is written and among what is only read."""
    shards = list(param_shards)
    for part in product((False, True), repeat=2):
        mine = [i for i, shard in enumerate(shards) if (shard.is_expert, shard.writer) == part]
        if mine:
            sizes = [shards[i].box.size for i in mine]
            owners = level_owners(sizes, dist.get_world_size(shards[mine[0]].group))
            for i, owner in zip(mine, owners, strict=True):
                shards[i] = replace(shards[i], owner=owner)
    return shards


def _part(box: Box, axis: int, rank: int, size: int) -> Box:
    length = box.shape[axis] // size
    start = tuple(s + rank * length if i == axis else s for i, s in enumerate(box.start))
    return Box(start, tuple(length if i == axis else n for i, n in enumerate(box.shape)))


def _global_name(name: str, layers: dict[str, int]) -> str:
    """A parameter's name in the whole model; layers: number in this chunk -> number in the model."""
    return _LAYER.sub(lambda match: f"language.decoder.layers.{layers[match[1]]}.", name)
