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
