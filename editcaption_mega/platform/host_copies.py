"""Copies from the device to the host that the device does on its own, into memory that it can write without help."""

import torch
from torch import Tensor


def staged_on_host(tensor: Tensor) -> Tensor:
    """A contiguous copy on the host; of a GPU's tensor it is whole only after `wait_for_staged`.

    Pinned memory is filled several times faster than other memory; PyTorch keeps what is freed for the next copies."""
    if not tensor.is_cuda:
        return tensor.to("cpu", copy=True).contiguous()
    copy = torch.empty(tensor.shape, dtype=tensor.dtype, pin_memory=True)
    return copy.copy_(tensor, non_blocking=True)


def wait_for_staged() -> None:
    """Until everything that `staged_on_host` was asked for in this thread's stream is on the host."""
    if torch.cuda.is_available() and torch.cuda.is_initialized():
        torch.cuda.current_stream().synchronize()
