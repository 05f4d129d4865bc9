"""Attributes by which Megatron knows how a parameter is sharded and its gradient summed."""

from typing import Any

import torch


def mark(parameter: torch.nn.Parameter, **marks: Any) -> None:
    """Set them."""
    for name, value in marks.items():
        setattr(parameter, name, value)
