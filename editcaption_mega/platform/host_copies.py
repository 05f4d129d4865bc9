"""Copies from the device to the host that the device does on its own, into memory that it can write without help."""

import weakref
from collections.abc import Sequence

import torch
from torch import Tensor

from .ahead import SideStream

_ALIGNMENT = 64  # bytes: a line of the processor's cache


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


class HostBuffer:
    """Memory of the host for one copy of some tensors, made once and filled again and again.

    New memory costs more than the copy into it, because the kernel clears it page by page. Where there is a GPU it is
    pinned, by registering it: PyTorch's own pinned memory comes in powers of two."""

    def __init__(self) -> None:
        self._memory = torch.empty(0, dtype=torch.uint8)
        self._stream = SideStream() if torch.cuda.is_available() else None
        self._copied: torch.cuda.Event | None = None

    @property
    def nbytes(self) -> int:
        return self._memory.nbytes

    def reserve(self, tensors: Sequence[Tensor]) -> None:
        """Have the memory that copies of these take. A thread may do it ahead."""
        size = _places(tensors)[-1]
        if size != self._memory.nbytes:
            self._memory = torch.empty(0, dtype=torch.uint8)  # first the old one goes
            self._memory = _pinned(size) if self._stream else torch.zeros(size, dtype=torch.uint8)

    def copy(self, tensors: Sequence[Tensor]) -> list[Tensor]:
        """Copies of the tensors, instead of what the buffer held before. Those of a GPU's tensors are whole only after
        `wait`; until then the device must not change what is copied (`hold_back`)."""
        self.reserve(tensors)
        places, copies = _places(tensors), []
        for tensor, at in zip(tensors, places, strict=False):
            place = self._memory[at : at + tensor.nbytes].view(tensor.dtype).view(tensor.shape)
            copies.append((place, tensor))
        if self._stream is None:
            return [_fill(*pair) for pair in copies]
        done, self._copied = self._stream.run_behind(lambda: [_fill(*pair) for pair in copies])
        return done

    def wait(self) -> None:
        """Until the copies are on the host. For any thread."""
        if self._copied is not None:
            self._copied.synchronize()

    def hold_back(self) -> None:
        """What this thread's stream does from now on comes after the copies."""
        if self._copied is not None:
            torch.cuda.current_stream().wait_event(self._copied)


def _fill(place: Tensor, tensor: Tensor) -> Tensor:
    return place.copy_(tensor, non_blocking=True)


def _places(tensors: Sequence[Tensor]) -> list[int]:
    """Where each tensor begins in the buffer, and where it ends."""
    places = [0]
    for tensor in tensors:
        places.append(places[-1] + -(-tensor.nbytes // _ALIGNMENT) * _ALIGNMENT)
    return places


def _pinned(size: int) -> Tensor:
    memory = torch.empty(size, dtype=torch.uint8)
    if size:
        runtime = torch.cuda.cudart()
        error = int(runtime.cudaHostRegister(memory.data_ptr(), size, 0))
        if error:
            raise RuntimeError(
                f"CUDA could not pin {size / 2**30:.1f} GiB of the host's memory (error {error}): with "
                "checkpoint.asynchronous=false a checkpoint needs less"
            )
        weakref.finalize(memory, runtime.cudaHostUnregister, memory.data_ptr()).atexit = False
    return memory
