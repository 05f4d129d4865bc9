"""The generators of this process, kept as they are while something else is done."""

import random
from collections.abc import Iterator
from contextlib import contextmanager

import torch


@contextmanager
def kept_random_states() -> Iterator[None]:
    """A block that may draw from PyTorch's, Megatron's and Python's generators; behind it they are as before."""
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    tracker = get_cuda_rng_tracker()
    python, of_tracker = random.getstate(), tracker.get_states()
    devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
    try:
        with torch.random.fork_rng(devices):
            yield
    finally:
        tracker.set_states(of_tracker)
        random.setstate(python)


def seed_host_generator(seed: int) -> None:
    """Give the CPU's generator this seed, which `torch.initial_seed` then tells wherever a layer is computed, and where
    it is computed again, too: its state is restored there. The devices' generators stay as they are.

    Where Megatron computes on the CPU, the states of its tracker take that generator's place in some blocks."""
    torch.default_generator.manual_seed(seed)
    if not torch.cuda.is_available():
        from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

        tracker = get_cuda_rng_tracker()
        tracker.set_states(dict.fromkeys(tracker.get_states(), torch.get_rng_state()))
