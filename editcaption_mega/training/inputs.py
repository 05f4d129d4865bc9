"""What a rank computes on, brought to its device while the step before is computed."""

import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Protocol, TypedDict

import torch

from editcaption_mega import platform
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.settings import DataSettings

# Seconds after which a thread that computes in Python lets another go on; Python's own 5 ms are as long as a layer.
SWITCH_INTERVAL = 5e-4


class HasMicroBatches(Protocol):
    micro_batches: list[PackedBatch]


def on_device[Item: HasMicroBatches](items: Iterable[Item]) -> Iterator[Item]:
    """Steps or rounds with their micro-batches on the device, planned, read and copied one ahead of what is computed.

    Device memory holds the inputs of two of them."""
    stream = platform.SideStream()

    def copied(item: Item) -> tuple[Item, torch.cuda.Event]:
        item.micro_batches, done = stream.run(lambda: [batch.to(platform.device()) for batch in item.micro_batches])
        return item, done

    with _quick_switches():
        for item, done in platform.made_ahead(copied, items):
            platform.wait_for_copies(done, (tensor for batch in item.micro_batches for tensor in batch.tensors()))
            yield item


@contextmanager
def _quick_switches() -> Iterator[None]:
    """A block in which the thread that computes soon has the interpreter back from those that plan and read: each
    call that waits outside of it (a launch, a reduction, memory that is freed) asks for it anew."""
    before = sys.getswitchinterval()
    sys.setswitchinterval(min(before, SWITCH_INTERVAL))
    try:
        yield
    finally:
        sys.setswitchinterval(before)


class ReadingAhead(TypedDict):
    """Arguments of `data.batching.loader.read_ahead`."""

    ahead: int
    workers: int
    processes: bool


def reading_ahead(data: DataSettings) -> ReadingAhead:
    """As the settings say; where a GPU computes, workers are processes unless they say otherwise."""
    processes = data.worker_processes
    if processes is None:
        processes = platform.device().type == "cuda"
    return {"ahead": data.prefetch_steps, "workers": data.workers, "processes": processes}
