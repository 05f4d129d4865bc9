"""How operators that run many times in each layer are registered with torch.library.

A call of `torch.library.custom_op` takes twice as long as one of an operator that is defined and implemented here, and
these are called a dozen times per layer. They are the same to autograd, torch.compile and a dry run."""

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
    """The operator `editcaption::NAME` with this schema, NAME(arguments) -> results.

    implementation: runs on tensors of the CPU and of CUDA; fake: makes results of the right form without values;
    backward and setup: as `torch.library.register_autograd` takes them."""
    name = schema.partition("(")[0]
    _LIBRARY.define(schema)
    for device in ("CPU", "CUDA"):
        _LIBRARY.impl(name, implementation, device)
    torch.library.register_fake(f"editcaption::{name}", fake, lib=_LIBRARY)
    if backward is not None:
        torch.library.register_autograd(f"editcaption::{name}", backward, setup_context=setup, lib=_LIBRARY)
    return getattr(torch.ops.editcaption, name).default
