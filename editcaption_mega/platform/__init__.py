"""Device, random state and process groups: the only room where a CPU differs from CUDA.

Importing this package prepares Megatron-Core for the machine, so it must come before the first Megatron import.
The packages that use Megatron (`model`, `conversion`, `training`) import it in their `__init__`. On CUDA nothing
is changed.
"""

import logging
import warnings

import torch

# Expected here and said at length by four modules: TE and Apex are optional.
warnings.filterwarnings("ignore", message="Transformer Engine and Apex are not installed")
warnings.filterwarnings("ignore", message="Apex is not installed")
logging.getLogger("torch.utils.cpp_extension").setLevel(logging.ERROR)

if not torch.cuda.is_available():
    from . import cpu

    cpu.install()

from .process import (  # noqa: E402
    Layout,
    barrier,
    destroy,
    device,
    initialize,
    is_rank_zero,
    print_once,
    rank,
    world_size,
)

__all__ = [
    "Layout",
    "barrier",
    "destroy",
    "device",
    "initialize",
    "is_rank_zero",
    "print_once",
    "rank",
    "world_size",
]
