"""Time, memory and bandwidth on this machine, and the line that says which machine it was."""

import ctypes
import gc
import platform
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path

import torch

from .processes import status_bytes

CACHE_BYTES = 512 << 20  # more than any GPU's L2
_CYCLES_PER_SECOND = 2e9  # of a GPU's processors, about


def machine_facts(repeats: int, case: str, device: str = "") -> dict:
    return {
        "device": device or platform.processor() or "CPU",
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "repeats": repeats,
        "case": case,
    }


def timed(run: Callable, device: torch.device, *, launching: float = 0.0) -> float:
    """Seconds of one run; on a GPU those of the device, with other data in its cache.

    launching: as long as the host takes (`launch_seconds`) the device waits before it begins, and then finds its queue
    full. Of a short run one sees the kernels then, and not how fast the host launches them."""
    gc.collect()
    if device.type == "cuda":
        torch.empty(CACHE_BYTES, dtype=torch.int8, device=device).zero_()
        start, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        if launching:
            torch.cuda._sleep(int((2 * launching + 1e-3) * _CYCLES_PER_SECOND))
        start.record()
        run()
        end.record()
        torch.cuda.synchronize(device)
        return start.elapsed_time(end) / 1e3
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def launch_seconds(run: Callable, device: torch.device) -> float:
    """Seconds that the host takes to launch one run on an idle GPU, where it does not wait for results; 0 on a CPU."""
    if device.type != "cuda":
        return 0.0
    torch.cuda.synchronize(device)
    began = time.perf_counter()
    run()
    seconds = time.perf_counter() - began
    torch.cuda.synchronize(device)
    return seconds


# How kernels are called on NVIDIA GPUs; what none of these is in is the rest.
KERNELS = {"attention": ("flash_",), "our kernels": ("ecm::",), "products": ("nvjet", "gemm", "cutlass")}


def write_profile(run: Callable, path: Path) -> dict[str, float]:
    """What one run on a GPU spends its time on, as PyTorch's profiler has it, most first -> seconds of each kind of
    KERNELS, and of the rest."""
    activities = [torch.profiler.ProfilerActivity.CUDA, torch.profiler.ProfilerActivity.CPU]
    with torch.profiler.profile(activities=activities) as profile:
        run()
        torch.cuda.synchronize()
    averages = profile.key_averages()
    path.write_text(averages.table(sort_by="self_cuda_time_total", row_limit=60), encoding="utf-8")
    kernels = [row for row in averages if row.device_type == torch.autograd.DeviceType.CUDA]
    return kinds_of_kernels({row.key: row.self_device_time_total / 1e6 for row in kernels})


def kinds_of_kernels(seconds: dict[str, float]) -> dict[str, float]:
    """Seconds by the kernel's name -> seconds of each kind."""
    kinds = dict.fromkeys([*KERNELS, "the rest"], 0.0)
    for name, spent in seconds.items():
        kind = next((kind for kind, parts in KERNELS.items() if any(part in name for part in parts)), "the rest")
        kinds[kind] += spent
    return kinds


def copy_bandwidth(device: torch.device, moved: int | None = None) -> float:
    """Bytes read and written per second by a copy of `moved` bytes, by default far more than the caches hold."""
    size = (1 << 30 if device.type == "cuda" else 1 << 28) if moved is None else max(1, moved // 2)
    source = torch.ones(size, dtype=torch.int8, device=device)
    target = torch.empty_like(source)
    target.copy_(source)
    launching = launch_seconds(lambda: target.copy_(source), device)
    seconds = statistics.median(timed(lambda: target.copy_(source), device, launching=launching) for _ in range(5))
    return 2 * size / seconds


def reset_peak(device: torch.device) -> int:
    """Start to look for the peak of memory -> bytes in use now."""
    gc.collect()
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        torch.cuda.reset_peak_memory_stats(device)
        return torch.cuda.memory_allocated(device)
    if not sys.platform.startswith("linux"):
        return 0
    ctypes.CDLL(None).malloc_trim(0)
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts again
    return status_bytes("VmRSS")


def peak(device: torch.device) -> int:
    """Bytes in use at most since `reset_peak`; 0 on systems that do not say."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
        return torch.cuda.max_memory_allocated(device)
    return status_bytes("VmHWM")
