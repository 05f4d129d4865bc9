"""The parameters of adapters in a model: new ones, or those of a checkpoint or a PEFT folder."""

import zlib
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from editcaption_mega import platform

from .adapter_table import AdapterChoice
from .param_shards import ParamShard, fill, owned, send
from .rules import Box, Rule
from .store import WEIGHTS, StoreReader

Values = Callable[[Rule, Box], Tensor]  # a box of an adapter's parameter


def new_values(rule: Rule, seed: int) -> Tensor:
    """A whole parameter as PEFT begins it: A uniform, B zero; the same in every layout."""
    if not rule.name.endswith("lora_A"):
        return torch.zeros(rule.shape)
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {rule.name}".encode()))
    from editcaption_mega.model.adapters import uniform_bound  # conversions need no Megatron-Core

    bound = uniform_bound(rule.shape[-1])
    return torch.empty(rule.shape).uniform_(-bound, bound, generator=generator)


def begin_adapters(chunks: list[torch.nn.Module], shards: list[ParamShard], seed: int) -> None:
    """New adapters, which change nothing yet. Collective; after the weights have been read."""
    from editcaption_mega.model.adapters import begin_magnitudes

    def values(rule: Rule, box: Box) -> Tensor:
        return new_values(rule, seed)[box.within(Box.whole(rule.shape))]

    _fill(shards, values)
    begin_magnitudes(chunks)


def place_adapters(shards: list[ParamShard], values: Mapping[str, Tensor]) -> None:
    """Whole parameters by name, in the canonical form. Collective."""
    _fill(shards, lambda rule, box: values[rule.name][box.within(Box.whole(rule.shape))])


def load_adapters(shards: list[ParamShard], choice: AdapterChoice, folder: Path) -> None:
    """Adapters of a checkpoint. Collective: all raise alike, ValueError for one that has others."""
    with platform.together():
        store = StoreReader(folder)
        for rule in choice.rules.values():
            key = WEIGHTS + rule.name
            if key not in store.tensors or store.shape(key) != rule.shape:
                there = f"has it as {list(store.shape(key))}" if key in store.tensors else "has none"
                raise ValueError(
                    f"{folder} holds other adapters than model.adapters asks for: {rule.name} is to be "
                    f"{list(rule.shape)}, and the checkpoint {there}; take the rank, modules and experts it was "
                    "trained with"
                )
    _fill(shards, lambda rule, box: store.view(WEIGHTS + rule.name, box))


def _fill(shards: list[ParamShard], values: Values) -> None:
    with platform.together():
        for shard in owned(shards):
            fill(shard, values(shard.rule, shard.box))
    for shard in shards:
        send(shard)
