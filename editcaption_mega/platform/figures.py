"""What this rank's device can do, and what it has used."""

import resource
import sys

import torch

from .process import device

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
