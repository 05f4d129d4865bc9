"""What is computed again in the backward pass, to hold fewer activations between the passes.

Whole layers, attention, feed-forward and mixtures of experts are Megatron's to recompute, from the options made here.
Norms and the activation of experts are not: its `CheckpointWithoutOutput` asks for Transformer Engine even where it is
not used, and swaps storages with an extension compiled at the first step. `recomputed` does the same with PyTorch's
public hooks for what autograd saves.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.multiprocessing.reductions import StorageWeakRef
from torch.utils.checkpoint import checkpoint

from editcaption_mega.settings import ModelSettings

from .architecture import Architecture

_OURS = ("layernorm", "moe_act")  # of settings.RECOMPUTE_MODULES; the others are Megatron's


def check_recompute(architecture: Architecture, model: ModelSettings) -> None:
    """Raise ValueError for modules to recompute that this model lacks."""
    kind, absent = ("dense", ("moe", "moe_act")) if architecture.experts is None else ("a mixture of experts", ("mlp",))
    for module in absent:
        if model.recompute == "selective" and module in model.recompute_modules:
            raise ValueError(f"model.recompute_modules has {module}, but the model is {kind}: leave {module} out")


def recompute_options(model: ModelSettings) -> dict[str, Any]:
    """Megatron's options for the language model."""
    if model.recompute == "full":
        return dict(
            recompute_granularity="full",
            recompute_method=model.recompute_method,
            recompute_num_layers=model.recompute_num_layers,
        )
    if model.recompute == "selective":
        modules = [module for module in model.recompute_modules if module not in _OURS]
        return dict(recompute_granularity="selective", recompute_modules=modules)
    return {}


def recomputes_vision(model: ModelSettings) -> bool:
    return model.recompute == "full" if model.recompute_vision is None else model.recompute_vision


def recomputed(function: Callable[..., Tensor], *inputs: Tensor) -> tuple[Tensor, AbstractContextManager[Any]]:
    """function(*inputs), and a context for the operation that uses it: in there, autograd does not save the output.

    In the backward pass it is computed again from the inputs, as is what `function` itself needs. `function` must draw
    no random numbers."""
    output = checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)
    storage = StorageWeakRef(output.untyped_storage())  # of views, too, and the output may go
    again = partial(function, *(tensor.detach() for tensor in inputs))

    def pack(tensor: Tensor) -> Tensor | tuple[Any, ...]:
        if StorageWeakRef(tensor.untyped_storage()) != storage:
            return tensor
        return tensor.size(), tensor.stride(), tensor.storage_offset()

    def unpack(saved: Tensor | tuple[Any, ...]) -> Tensor:
        if isinstance(saved, Tensor):
            return saved
        with torch.no_grad():
            return again().as_strided(*saved)

    return output, torch.autograd.graph.saved_tensors_hooks(pack, unpack)


def recomputed_norm(norm: Callable[..., nn.Module]) -> Callable[..., nn.Module]:
    """Builds the norms that `norm` builds, with an output that `forget_norm` keeps from being saved."""

    def build(*args: Any, **kwargs: Any) -> nn.Module:
        module: Any = norm(*args, **kwargs)
        forward = module.forward

        def recomputing(x: Tensor) -> Tensor:
            module.forgotten = nullcontext()
            if not torch.is_grad_enabled():
                return forward(x)
            output, module.forgotten = recomputed(forward, x)
            return output

        # Not a subclass: Megatron's TENorm is a class that builds objects of another one.
        module.forward = recomputing
        return module

    return build


def forget_norm(norm: Any, *, used_by: nn.Module) -> None:
    """Where the norm is recomputed, the module that it stands before does not save the norm's output."""
    if "forward" not in vars(norm):  # as built by `recomputed_norm`
        return

    def enter(*_: Any) -> None:
        norm.forgotten.__enter__()

    def leave(*_: Any) -> None:
        norm.forgotten.__exit__(None, None, None)

    used_by.register_forward_pre_hook(enter)
    used_by.register_forward_hook(leave)
