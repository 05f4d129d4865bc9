"""Which machine this is, and what it can do at most: the ceilings that other figures are shares of."""

import statistics
import subprocess

import torch
from benches.measuring import copy_bandwidth, timed

from editcaption_mega.kernels import available_backends

from .figures import Figure, Figures, Machine


def run(machine: Machine) -> Figures:
    yield Figure("PyTorch", torch.__version__)
    yield Figure("log-prob backends", " ".join(available_backends()))
    if machine.on_gpu:
        name = torch.cuda.get_device_properties(machine.device)
        yield Figure("memory of the card", round(name.total_memory / 2**30, 1), "GiB")
        driver = subprocess.run(
            ["nvidia-smi", "--query-gpu=driver_version,clocks.max.sm,power.limit", "--format=csv,noheader"],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        yield Figure("driver, clock, power limit", driver.stdout.strip() or "nvidia-smi does not say")
    yield Figure("copy", copy_bandwidth(machine.device), "B/s", "bytes read and written")
    yield Figure("matmul", matmul_rate(machine), "FLOP/s", f"{machine.size(8192, 512)} cubed, bf16, random values")


def matmul_rate(machine: Machine) -> float:
    n = machine.size(8192, 512)
    left, right = (torch.randn(n, n, device=machine.device, dtype=torch.bfloat16) for _ in range(2))
    for _ in range(3):
        left @ right
    return 2 * n**3 / statistics.median(timed(lambda: left @ right, machine.device) for _ in range(10))
