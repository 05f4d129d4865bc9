"""What a part of the check reports, and where it runs."""

from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class Figure:
    """One line of the table. `most`: above it the machine computes something wrong; `goal`: what it should reach at
    least, judged on a GPU only."""

    name: str
    value: float | str
    unit: str = ""
    note: str = ""
    most: float | None = None
    goal: float | None = None

    def verdict(self, on_gpu: bool) -> str:
        if not isinstance(self.value, float | int):
            return ""
        if self.most is not None:
            return "right" if self.value <= self.most else f"WRONG: at most {self.most:g}"  # NaN is wrong too
        if self.goal is not None and on_gpu:
            return "reached" if self.value >= self.goal else f"below {self.goal:g}"
        return ""

    def to_json(self, on_gpu: bool) -> dict[str, Any]:
        return {**asdict(self), "verdict": self.verdict(on_gpu)}


@dataclass(frozen=True)
class Machine:
    """Where a part runs. ceilings: copy in bytes/s, matmul in FLOP/s, as `machine` measured them."""

    device: torch.device
    output: Path  # of the whole check; parts may keep files there
    ceilings: dict[str, float]

    @property
    def on_gpu(self) -> bool:
        return self.device.type == "cuda"

    @property
    def precision(self) -> str:
        return "bf16" if self.on_gpu else "fp32"

    def size[Size](self, gpu: Size, cpu: Size) -> Size:
        """A size for a GPU, and one at which a CPU runs the same code."""
        return gpu if self.on_gpu else cpu


Figures = Iterator[Figure]


def relative_error(values: Tensor, truth: Tensor) -> float:
    """|values - truth| / |truth| in Frobenius norms; 0 for nothing."""
    values, truth = values.detach().double().cpu(), truth.detach().double().cpu()
    return ((values - truth).norm() / truth.norm().clamp_min(1e-30)).item() if truth.numel() else 0.0
