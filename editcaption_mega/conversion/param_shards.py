"""Which box of which canonical tensor each local parameter is."""

import re
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from megatron.core import parallel_state
from torch import Tensor

from editcaption_mega.model import unwrap

from .rules import Box, Rule

_LAYER = re.compile(r"^language\.decoder\.layers\.(\d+)\.")


@dataclass(frozen=True)
class ParamShard:
    """A parameter of this rank: its rule, its box of the canonical tensor, and who else holds the same box.

    `writer`: this rank's data-parallel group writes it; which rank of the group does is the caller's choice.
    """

    parameter: torch.nn.Parameter
    name: str
    rule: Rule
    box: Box
    writer: bool
    is_expert: bool

    def view(self, local: Tensor) -> Tensor:
        """A tensor of the parameter's size, in the form of its box."""
        return local.view(self.box.shape)


def local_param_shards(chunks: list[torch.nn.Module], rules: Mapping[str, Rule]) -> list[ParamShard]:
    """Every parameter of this rank's chunks, in a fixed order. A parameter without a rule is a broken invariant."""
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
            assert name in rules, f"parameter {name} has no weight rule"
            rule = rules[name]
            box = Box.whole(rule.shape)
            splits = (rule.tensor_axis, tensor), (rule.expert_axis, expert), (rule.expert_tensor_axis, expert_tensor)
            for axis, (rank, size) in splits:
                if axis is not None:
                    box = _part(box, axis, rank, size)
            assert box.size == parameter.numel(), f"{name}: {tuple(parameter.shape)} is not the box {box.shape}"
            is_expert = rule.expert_axis is not None
            replicated = not is_expert and rule.tensor_axis is None
            writer = name == rule.name and (not replicated or tensor[0] == 0)
            param_shards.append(ParamShard(parameter, name, rule, box, writer, is_expert))
    return param_shards


def _part(box: Box, axis: int, rank: int, size: int) -> Box:
    length = box.shape[axis] // size
    start = tuple(s + rank * length if i == axis else s for i, s in enumerate(box.start))
    return Box(start, tuple(length if i == axis else n for i, n in enumerate(box.shape)))


def _global_name(name: str, layers: dict[str, int]) -> str:
    """A parameter's name in the whole model; layers: number in this chunk -> number in the model."""
    return _LAYER.sub(lambda match: f"language.decoder.layers.{layers[match[1]]}.", name)
