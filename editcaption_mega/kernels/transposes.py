"""Copies of matrices whose rows are columns in memory, as the experts of Hugging Face folders are to a checkpoint.

PyTorch copies such a tensor along the rows of the copy, so each value that it reads lies in another cache line: for the
expert shapes of 30B-A3B 0.35 GB/s. The extension transposes tiles in registers, 2 to 4 GB/s. Without it a block of
columns is copied at a time, whose lines stay in the cache until all of their values are used, 1.0 to 1.3 GB/s. The bits
are the same.
"""

import numpy as np
import torch
from torch import Tensor

from .compiled import EXTENSION

_BLOCK = 64  # columns that are copied at once
_OF_ITEM = {1: torch.uint8, 2: torch.int16, 4: torch.int32, 8: torch.int64}  # bits as NumPy knows them
_transpose = getattr(EXTENSION, "transpose", None)  # None too for an extension from before it could


def copy_values(out: Tensor, values: Tensor) -> None:
    """As `out.copy_(values)`, of tensors of one shape."""
    if not (_is_transposed(values) and out.device == values.device and out.stride(-1) == 1):
        out.copy_(values)
        return
    if values.dtype != out.dtype:
        values = values.mT.to(out.dtype).mT
    copy = _copy_by_blocks if _transpose is None else _copy_by_tiles
    for matrix in np.ndindex(values.shape[:-2]):
        copy(out.detach()[matrix], values.detach()[matrix])


def _copy_by_tiles(out: Tensor, values: Tensor) -> None:
    assert _transpose is not None
    cols, rows = values.shape
    _transpose(values.data_ptr(), values.stride(1), out.data_ptr(), out.stride(0), rows, cols, values.dtype.itemsize)


def _copy_by_blocks(out: Tensor, values: Tensor) -> None:
    bits = _OF_ITEM[out.dtype.itemsize]
    there, here = out.view(bits).numpy(), values.view(bits).numpy()
    for start in range(0, here.shape[1], _BLOCK):
        there[:, start : start + _BLOCK] = here[:, start : start + _BLOCK]


def contiguous(values: Tensor) -> Tensor:
    """As `values.contiguous()`."""
    if not _is_transposed(values):
        return values.contiguous()
    out = torch.empty(values.shape, dtype=values.dtype)
    copy_values(out, values)
    return out


def _is_transposed(values: Tensor) -> bool:
    """Whether these are matrices on the host with columns that are contiguous and rows that are not."""
    return (
        values.dim() >= 2
        and values.device.type == "cpu"
        and values.dtype.itemsize in _OF_ITEM
        and values.stride(-2) == 1
        and values.stride(-1) > 1
        and values.shape[-2] > 1
    )
