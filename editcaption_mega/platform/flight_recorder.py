"""NCCL's flight recorder: the last collectives of this rank, which started and which ended."""

from contextlib import suppress
from pathlib import Path

import torch
import torch.distributed as dist


def write_flight_record(path: Path) -> bool:
    """Write it, for `torchfrtrace`, where there is one -> whether there was. TORCH_FR_BUFFER_SIZE turns it on."""
    if not torch.cuda.is_available() or not dist.is_initialized():
        return False
    with suppress(AttributeError, OSError, RuntimeError):  # a build without NCCL has none
        path.write_bytes(torch._C._distributed_c10d._dump_nccl_trace())  # type: ignore[attr-defined]
        return True
    return False
