"""Work that is done for a rank while its device computes: by a thread, and on a stream of its own."""

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import torch
from torch import Tensor

from .process import device


def made_ahead[Item, Result](make: Callable[[Item], Result], items: Iterable[Item]) -> Iterator[Result]:
    """What `make` makes of each item, in a thread, while the result before it is in use.

    What items or `make` raise is raised at its place."""
    source, end = iter(items), object()

    def made() -> Any:
        item: Any = next(source, end)
        return end if item is end else make(item)

    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="ahead") as thread:
        try:
            coming = thread.submit(made)
            while (result := coming.result()) is not end:
                coming = thread.submit(made)
                yield result
        finally:
            thread.submit(getattr(source, "close", lambda: None))  # a generator, in the thread that runs it


class SideStream:
    """Copies to the device or from it, beside what it computes. After `prepare`; only where there is CUDA."""

    def __init__(self) -> None:
        self._stream = torch.cuda.Stream(device=device())

    def run[Result](self, copy: Callable[[], Result]) -> tuple[Result, torch.cuda.Event]:
        """What `copy` returns, whose copies from pinned memory may still run, and what tells that they are done."""
        with torch.cuda.stream(self._stream):
            return copy(), self._stream.record_event()

    def run_behind[Result](self, copy: Callable[[], Result]) -> tuple[Result, torch.cuda.Event]:
        """As `run`, after what the device was asked for until now: copies of what it computes."""
        self._stream.wait_stream(torch.cuda.current_stream())
        return self.run(copy)


def wait_for_copies(done: torch.cuda.Event, tensors: Iterable[Tensor]) -> None:
    """What is computed from now on by this thread waits for the copies, and their memory is free only after it."""
    stream = torch.cuda.current_stream()
    stream.wait_event(done)
    for tensor in tensors:
        tensor.record_stream(stream)
