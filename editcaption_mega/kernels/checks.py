"""What the operators accept. One place, so every backend refuses the same things in the same words."""

import torch
from torch import Tensor

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_matrix(operator: str, name: str, tensor: Tensor, columns: str) -> None:
    """A 2-D floating tensor [T, columns] (or [V, columns] for weights)."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{operator}: `{name}` must be a tensor, found {type(tensor).__name__}")
    if tensor.dim() != 2:
        raise ValueError(f"{operator}: `{name}` must have 2 dimensions [{columns}], found {list(tensor.shape)}")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{operator}: `{name}` must be float32, bfloat16 or float16, found {tensor.dtype}")


def check_targets(operator: str, targets: Tensor, rows: int, of: str, device: torch.device) -> None:
    """int64 token ids [T], one for each of the `rows` rows of `of`, on the same device."""
    if not isinstance(targets, Tensor):
        raise ValueError(f"{operator}: `targets` must be a tensor, found {type(targets).__name__}")
    if targets.dtype != torch.int64:
        raise ValueError(f"{operator}: `targets` must be int64, found {targets.dtype}; convert with targets.long()")
    if targets.dim() != 1 or targets.shape[0] != rows:
        raise ValueError(
            f"{operator}: `targets` must be [{rows}], one for each row of `{of}`, found {list(targets.shape)}"
        )
    if targets.device != device:
        raise ValueError(f"{operator}: `targets` must be on {device} like `{of}`, found {targets.device}")


def check_target_values(operator: str, targets: Tensor, vocab_size: int) -> None:
    """Every target in [0, vocab_size); on an accelerator this waits for the device."""
    if targets.numel() == 0:
        return
    low, high = (int(bound) for bound in torch.aminmax(targets))
    if low < 0 or high >= vocab_size:
        found = low if low < 0 else high
        raise ValueError(
            f"{operator}: `targets` must lie in [0, {vocab_size}), the vocabulary; found {found}; "
            "leave rows that carry no loss out before the call"
        )


def check_linear(operator: str, hidden: Tensor, weight: Tensor, targets: Tensor) -> None:
    """hidden [T, H] and weight [V, H] of one dtype on one device, and their targets [T]."""
    check_matrix(operator, "hidden", hidden, "T, H")
    check_matrix(operator, "weight", weight, "V, H")
    if weight.dtype != hidden.dtype:
        raise ValueError(f"{operator}: `weight` must be {hidden.dtype} like `hidden`, found {weight.dtype}")
    if weight.shape[1] != hidden.shape[1]:
        raise ValueError(
            f"{operator}: `weight` must be [V, {hidden.shape[1]}] to follow `hidden` {list(hidden.shape)}, "
            f"found {list(weight.shape)}"
        )
    if weight.device != hidden.device:
        raise ValueError(f"{operator}: `weight` must be on {hidden.device} like `hidden`, found {weight.device}")
    check_targets(operator, targets, hidden.shape[0], "hidden", hidden.device)


def check_vocab_size(operator: str, vocab_size: int, columns: int) -> None:
    """The real vocabulary fits in the columns of all shards."""
    if not 0 < vocab_size <= columns:
        raise ValueError(
            f"{operator}: `vocab_size` must lie in [1, {columns}], the rows of `weight` over all shards, "
            f"found {vocab_size}"
        )
