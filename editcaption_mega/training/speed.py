"""Where the time of a step goes, and how much is computed in it."""

import gc
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state

from editcaption_mega import platform
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.model import Architecture
from editcaption_mega.model.flops import language_flops, passes, vision_flops
from editcaption_mega.model.parallel.adapter_plan import AdapterPlan

_FULL_COLLECTION = 100  # steps between two searches of all objects for cycles


class Speed:
    """The clock of the loop. A step's seconds go from the end of the one before to its own, and nothing is left out but
    evaluations, which have seconds of their own.

    data_seconds: waiting for its inputs, on this rank or any other. save_seconds: the checkpoint before it.
    compute_seconds and update_seconds: see `loop.train_step`. tflops: what a rank computes per second on average, by
    `model.flops`, with the vision tower's vision_tflops in it; mfu, vision_mfu: the same over what the device can.
    padding, work_imbalance: as `packing.Plan` has them. peak_memory_gib: of the rank with the most."""

    def __init__(self, architecture: Architecture | None, adapters: AdapterPlan | None = None):
        self.architecture = architecture
        self.passes = passes(adapters)
        self._ended = self._arrived = time.monotonic()
        self._saving = 0.0

    def data_arrived(self) -> None:
        """The step's inputs are there on every rank."""
        self._arrived = time.monotonic()

    @contextmanager
    def saving(self) -> Iterator[None]:
        """A block that writes a checkpoint."""
        began = time.monotonic()
        yield
        self._saving = time.monotonic() - began

    @contextmanager
    def evaluating(self) -> Iterator[None]:
        """A block between the end of a step and what follows it, which is no part of either."""
        began = time.monotonic()
        yield
        self._ended += time.monotonic() - began

    def step_ended(self, step: Step, signal_number: int) -> tuple[dict[str, Any], int]:
        """The step's numbers over all ranks, and the largest signal number of any rank. Collective."""
        flops = self._flops(step)
        copies = platform.world_size() // parallel_state.get_data_parallel_world_size()
        sums = [sum(batch.num_tokens for batch in step.micro_batches) / copies, *flops]
        largest = [float(signal_number), float(platform.peak_memory())]
        tokens, language, vision, number, memory = _over_ranks(sums, largest)
        now = time.monotonic()
        seconds, data = now - self._ended, self._arrived - self._ended - self._saving
        numbers: dict[str, Any] = {"tokens": round(tokens), "seconds": seconds, "data_seconds": data}
        numbers["save_seconds"] = self._saving
        numbers["tokens_per_second"], numbers["samples_per_second"] = tokens / seconds, step.num_samples / seconds
        numbers["padding"], numbers["work_imbalance"] = step.padding, step.imbalance
        numbers["peak_memory_gib"] = memory / 2**30
        if self.architecture is not None:
            rates = [flops / seconds / platform.world_size() for flops in (language + vision, vision)]
            numbers["tflops"], numbers["vision_tflops"] = (rate / 1e12 for rate in rates)
            if peak := platform.peak_flops():
                numbers["mfu"], numbers["vision_mfu"] = (rate / peak for rate in rates)
        self._ended, self._saving = now, 0.0
        return numbers, round(number)

    def _flops(self, step: Step) -> tuple[float, float]:
        """Language's and vision's of the step, forward and backward, divided by the ranks that have the same rows."""
        if self.architecture is None:
            return 0.0, 0.0
        tensor_parallel = parallel_state.get_tensor_model_parallel_world_size()
        copies = tensor_parallel * parallel_state.get_pipeline_model_parallel_world_size()
        language = sum(language_flops(self.architecture, batch) for batch in step.micro_batches)
        images = [batch.images for batch in step.micro_batches if batch.images is not None]
        vision = sum(vision_flops(self.architecture.vision, of_row) for of_row in images)
        of_language, of_vision = self.passes
        return of_language * language / copies, of_vision * vision / tensor_parallel


def _over_ranks(sums: list[float], largest: list[float]) -> list[float]:
    """Sums and maxima over all ranks. Collective."""
    added = torch.tensor(sums, dtype=torch.float64).to(platform.device(), non_blocking=True)
    maxima = torch.tensor(largest, dtype=torch.float64).to(platform.device(), non_blocking=True)
    dist.all_reduce(added)
    dist.all_reduce(maxima, op=dist.ReduceOp.MAX)
    numbers: list[float] = torch.cat((added, maxima)).tolist()
    return numbers


@contextmanager
def manual_garbage_collection() -> Iterator[Callable[[int], None]]:
    """A block in which the interpreter looks for cycles only between steps, where the function that it yields is called
    with the step's number: on all ranks at once, so that none waits for another's."""
    was_enabled = gc.isenabled()
    gc.collect()
    gc.freeze()  # what a job has built before its steps stays to its end
    gc.disable()

    def collect(step: int) -> None:
        gc.collect(1 if step % _FULL_COLLECTION else 2)

    try:
        yield collect
    finally:
        gc.unfreeze()
        if was_enabled:
            gc.enable()
