"""How operators that run many times in each layer are registered: with torch.library, so that torch.compile and a dry
run see one operator, and with an autograd function of PyTorch's own around it.

The host launches a dozen of them per layer, forward and backward, and must stay ahead of the GPU. Autograd as
`torch.library.register_autograd` has it takes some 35 microseconds of every call, a function some 15."""

from collections.abc import Callable
from typing import Any

import torch

_LIBRARY = torch.library.Library("editcaption", "FRAGMENT")


def define(
    schema: str,
    implementation: Callable[..., Any],
    fake: Callable[..., Any],
    backward: Callable[..., Any] | None = None,
    setup: Callable[..., None] | None = None,
) -> Any:
    """The operator `editcaption::NAME` with this schema, NAME(arguments) -> results, differentiable with `backward`.

    implementation: runs on tensors of the CPU and of CUDA; fake: makes results of the right form without values;
    backward and setup: as `torch.library.register_autograd` takes them."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    for device in ("CPU", "CUDA"):
        _LIBRARY.impl(name, implementation, device)
    torch.library.register_fake(f"editcaption::{name}", fake, lib=_LIBRARY)
    operator = getattr(torch.ops.editcaption, name).default
    if backward is None:
        return operator
    assert setup is not None

    def forward(ctx: Any, *arguments: Any) -> Any:
        result = operator(*arguments)
        setup(ctx, arguments, result)
        return result

    # Not `setup_context`, for which PyTorch reads the signature of `forward` in each call.
    methods = {"forward": staticmethod(forward), "backward": staticmethod(backward)}
    function: Any = type(name, (torch.autograd.Function,), methods)
    apply = function.apply
    return lambda *arguments: (apply if torch.is_grad_enabled() else operator)(*arguments)
