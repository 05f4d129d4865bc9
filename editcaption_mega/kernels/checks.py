"""What the operators accept. One place, so every backend refuses the same things in the same words."""

import torch
from torch import Tensor

from .preference_losses import PreferenceLossConfig

DTYPES = (torch.float32, torch.bfloat16, torch.float16)


def check_matrix(operator: str, name: str, tensor: Tensor, columns: str) -> None:
    """A 2-D floating tensor [T, columns] (or [V, columns] for weights)."""
    if not isinstance(tensor, Tensor):
        raise ValueError(f"{operator}: `{name}` must be a tensor, found {type(tensor).__name__}")
    if tensor.dim() != 2:
        raise ValueError(f"{operator}: `{name}` must have 2 dimensions [{columns}], found {list(tensor.shape)}")
    if tensor.dtype not in DTYPES:
        raise ValueError(f"{operator}: `{name}` must be float32, bfloat16 or float16, found {tensor.dtype}")


def check_alike(operator: str, *tensors: Tensor) -> None:
    """Floating tensors of one dtype; plain PyTorch takes float64 as well.

    What is compiled gets addresses and one dtype: with another it would read and write memory that is not its own."""
    dtype = tensors[0].dtype
    if dtype not in (*DTYPES, torch.float64) or any(tensor.dtype != dtype for tensor in tensors[1:]):
        raise ValueError(
            f"{operator}: tensors must be of one dtype, float32, bfloat16, float16 or float64, found "
            f"{', '.join(str(tensor.dtype).removeprefix('torch.') for tensor in tensors)}"
        )


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


def check_columns(operator: str, columns: int, details: bool) -> None:
    """Token ids fit into what the kernels store them in."""
    if details and columns >= 2**24:
        raise ValueError(
            f"{operator}: `details` supports vocabularies below {2**24} (argmax is stored as fp32), found {columns}"
        )


def check_cu_seqlens(operator: str, cu_seqlens: Tensor, device: torch.device) -> None:
    """Bounds of sequences: int32 or int64 [S + 1], on the CPU or on `device`."""
    if not isinstance(cu_seqlens, Tensor):
        raise ValueError(f"{operator}: `cu_seqlens` must be a tensor, found {type(cu_seqlens).__name__}")
    if cu_seqlens.dtype not in (torch.int32, torch.int64):
        raise ValueError(f"{operator}: `cu_seqlens` must be int32 or int64, found {cu_seqlens.dtype}")
    if cu_seqlens.dim() != 1 or cu_seqlens.shape[0] == 0:
        raise ValueError(
            f"{operator}: `cu_seqlens` must be [S + 1], the bounds of S sequences, found {list(cu_seqlens.shape)}"
        )
    if cu_seqlens.device not in (torch.device("cpu"), device):
        raise ValueError(f"{operator}: `cu_seqlens` must be on cpu or {device}, found {cu_seqlens.device}")


def check_cu_seqlens_values(operator: str, cu_seqlens: Tensor, rows: int, *, answers: bool = False) -> None:
    """From 0 to `rows`, never falling; always rising when the sequences are `answers`."""
    bounds = cu_seqlens.tolist()
    if bounds[0] != 0:
        raise ValueError(f"{operator}: `cu_seqlens` must start at 0, found {bounds[0]}")
    if bounds[-1] != rows:
        raise ValueError(f"{operator}: `cu_seqlens` must end at {rows}, the number of rows, found {bounds[-1]}")
    for i, (begin, end) in enumerate(zip(bounds, bounds[1:], strict=False)):
        if end < begin:
            raise ValueError(f"{operator}: `cu_seqlens` must never fall, found {begin} and then {end} at index {i + 1}")
        if answers and end == begin:
            raise ValueError(
                f"{operator}: `cu_seqlens` must give each answer at least one token, found {begin} twice, at index "
                f"{i} and {i + 1}; leave pairs with an empty answer out"
            )


def check_preference(
    operator: str,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference: Tensor | None,
    config: PreferenceLossConfig,
    margin: Tensor | None,
) -> None:
    """Everything about pairs but the values of cu_seqlens."""
    if not isinstance(config, PreferenceLossConfig):
        raise ValueError(f"{operator}: `config` must be a PreferenceLossConfig, found {type(config).__name__}")
    check_cu_seqlens(operator, cu_seqlens, targets.device)
    sequences = cu_seqlens.shape[0] - 1
    if sequences % 2:
        raise ValueError(
            f"{operator}: `cu_seqlens` must bound pairs of answers, an even number of them, found {sequences}"
        )
    if config.reference_free and reference is not None:
        raise ValueError(f"{operator}: `reference` must be None for {config.loss}, which has no reference model")
    if not config.reference_free and reference is None:
        raise ValueError(f"{operator}: `reference` must be the answers' log-probs [{sequences}] for {config.loss}")
    for name, tensor, size in (("reference", reference, sequences), ("margin", margin, sequences // 2)):
        if tensor is None:
            continue
        if not isinstance(tensor, Tensor) or tensor.dtype != torch.float32 or tensor.shape != (size,):
            found = f"{tensor.dtype} {list(tensor.shape)}" if isinstance(tensor, Tensor) else repr(tensor)
            raise ValueError(f"{operator}: `{name}` must be a float32 tensor [{size}], found {found}")
        if tensor.device != targets.device:
            raise ValueError(f"{operator}: `{name}` must be on {targets.device}, found {tensor.device}")
        if tensor.requires_grad:
            raise ValueError(f"{operator}: `{name}` must not require a gradient, none is computed; detach it")
