"""Adapters for the layers of a chunk, by the plan."""

from typing import Protocol, cast

import torch
from torch import nn

from ..parallel.adapter_plan import AdapterPart, AdapterPlan
from .adapted_linears import AdaptedWeight


class Adapted(Protocol):
    """A layer that can have adapters."""

    def attach(self, plan: AdapterPlan, parts: tuple[AdapterPart, ...], name: str) -> None: ...


def attach_adapters(chunk: nn.Module, plan: AdapterPlan, layers: dict[str, int]) -> None:
    """Make the adapters of a chunk's weights. layers: of the decoder, number in this chunk -> number in the model."""
    for local_name, _ in list(chunk.named_parameters()):
        words = local_name.split(".")
        if words[:3] == ["language", "decoder", "layers"]:
            words[3] = str(layers[words[3]])
        name = ".".join(words)
        if name in plan.parts:
            layer = chunk.get_submodule(local_name.rpartition(".")[0])
            cast(Adapted, layer).attach(plan, plan.parts[name], name)


@torch.no_grad()
def begin_magnitudes(chunks: list[nn.Module]) -> None:
    """Magnitudes of new adapters (DoRA): the norms of the rows, so that the model is the base. Collective; after the
    weights and the other parameters of the adapters are there."""
    for chunk in chunks:
        for layer in chunk.modules():
            if isinstance(layer, AdaptedWeight):
                for adapter in layer.parts:
                    if adapter.magnitude is not None:
                        adapter.magnitude.copy_(layer.norms(adapter))
