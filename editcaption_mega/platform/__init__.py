"""Device, random state and process groups: the only room where a CPU differs from CUDA.

Importing this package prepares Megatron-Core for the machine, so it must come before the first Megatron import.
The packages that use Megatron (`model`, `conversion`, `training`) import it in their `__init__`. On CUDA nothing
is changed.
"""

import logging
import re
import warnings

import torch

# Megatron's and torch's own affairs, said once per rank at every start: nothing that a user could mend.
for _message in (
    "Transformer Engine and Apex are not installed",
    "Apex is not installed",
    "MimoModelConfig is experimental",
    "full scope is deprecated",
    "`torch.distributed.",
    "The .grad attribute of a Tensor that is not a leaf",
    "Warning: tp_group is None",
):
    warnings.filterwarnings("ignore", message=re.escape(_message))
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
    threads_per_rank,
    world_size,
)
from .together import each_together, from_rank_zero, gather, raise_together, share, together  # noqa: E402

__all__ = [
    "Layout",
    "barrier",
    "destroy",
    "device",
    "each_together",
    "from_rank_zero",
    "gather",
    "initialize",
    "is_rank_zero",
    "print_once",
    "raise_together",
    "rank",
    "share",
    "threads_per_rank",
    "together",
    "world_size",
]
