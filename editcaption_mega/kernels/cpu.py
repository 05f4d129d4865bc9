"""The `cpu` backend: the compiled extension, called with addresses and sizes."""

import torch
from torch import Tensor

try:
    from . import _C as EXTENSION
except ImportError:  # not built: see setup.py
    EXTENSION = None


def _code(dtype: torch.dtype) -> int:
    codes = {
        torch.float32: EXTENSION.FLOAT32,
        torch.bfloat16: EXTENSION.BFLOAT16,
        torch.float16: EXTENSION.FLOAT16,
    }
    return codes[dtype]


def _matrix(logits: Tensor, vocab_offset: int, valid_cols: int) -> tuple[int, ...]:
    rows, cols = logits.shape
    return (logits.data_ptr(), _code(logits.dtype), rows, logits.stride(0), cols, valid_cols, vocab_offset)


def stats(logits: Tensor, targets: Tensor, vocab_offset: int, valid_cols: int, entropy: bool = False) -> Tensor:
    """Softmax statistics [T, 4] fp32 (see `backends`)."""
    logits = logits if logits.stride(1) == 1 else logits.contiguous()
    targets = targets.contiguous()
    out = torch.empty(logits.shape[0], 4, dtype=torch.float32)
    matrix = _matrix(logits, vocab_offset, valid_cols)
    EXTENSION.stats(*matrix, targets.data_ptr(), out.data_ptr(), entropy, torch.get_num_threads())
    return out


def gradient(
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    row_grad: Tensor,
    vocab_offset: int,
    valid_cols: int,
    *,
    in_place: bool,
) -> Tensor:
    """The gradient by the logits [T, C] in their dtype (see `backends`); over the logits themselves when in_place."""
    if logits.stride(1) != 1:
        assert not in_place, "the buffer that is overwritten is ours, and row-major"
        logits = logits.contiguous()
    targets, lse = targets.contiguous(), lse.contiguous()
    row_grad = row_grad.to(torch.float32).contiguous()
    grad = logits if in_place else torch.empty(logits.shape, dtype=logits.dtype)
    EXTENSION.backward(
        *_matrix(logits, vocab_offset, valid_cols),
        targets.data_ptr(),
        lse.data_ptr(),
        row_grad.data_ptr(),
        grad.data_ptr(),
        grad.stride(0),
        torch.get_num_threads(),
    )
    return grad
