"""What this rank's device can do, and what it has used."""

import resource
import sys
from importlib import metadata

import torch

from editcaption_mega import __version__

from .process import device, world_size

# FLOP/s of dense bf16 products, from NVIDIA's data sheets, by a part of the device's name; the first that fits.
PEAK_FLOPS = {"H100 PCIe": 756e12, "H100": 989e12, "H200": 989e12, "A100": 312e12}


def peak_flops() -> float | None:
    """What MFU is measured against; None where it is not known, as on a CPU."""
    if device().type != "cuda":
        return None
    name = torch.cuda.get_device_name(device())
    return next((flops for part, flops in PEAK_FLOPS.items() if part in name), None)


def peak_memory() -> int:
    """The most bytes that tensors of this rank took of its GPU since the last call, or that its process ever took."""
    if device().type == "cuda":
        peak = torch.cuda.max_memory_allocated(device())
        torch.cuda.reset_peak_memory_stats(device())
        return peak
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def what_computes() -> str:
    """The ranks, their device and the versions of what computes on it, for the log."""
    if torch.cuda.is_available():
        device = torch.cuda.get_device_name()
        nccl = ".".join(map(str, torch.cuda.nccl.version()))
        versions = [f"CUDA {torch.version.cuda}", f"NCCL {nccl}"]
    else:
        device, versions = "CPU", []
    versions = [f"torch {torch.__version__}", *versions, f"megatron-core {metadata.version('megatron-core')}"]
    count = world_size()
    return f"{count} rank{'s' * (count > 1)} on {device}; {', '.join(versions)}, editcaption_mega {__version__}"
