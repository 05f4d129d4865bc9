"""The names of a step's numbers in loggers, which show them by groups; metrics.jsonl has the flat ones."""

import math
from collections.abc import Mapping
from typing import Any

_GROUPS = {
    "speed": (
        "seconds", "data_seconds", "compute_seconds", "update_seconds", "save_seconds", "evaluation_seconds",
        "tokens_per_second", "padding", "work_imbalance",
        "samples_per_second", "tflops", "vision_tflops", "mfu", "vision_mfu", "slowest_rank", "slowest_rank_seconds",
        "median_rank_seconds",
    ),
    "memory": ("peak_memory_gib",),
    "experts": ("expert_load_worst_layer", "expert_load_mean", "experts_without_tokens"),
}  # fmt: skip
_GROUP_OF = {name: group for group, names in _GROUPS.items() for name in names}


def grouped(numbers: Mapping[str, Any]) -> dict[str, float]:
    """The finite numbers of a step by the names that loggers show: `train/loss`, `speed/mfu`.

    A name with a group of its own (`held_out/loss`, `orientation/reward_margin`) keeps it."""
    return {
        _grouped(name): float(value)
        for name, value in numbers.items()
        if name != "step" and isinstance(value, int | float) and math.isfinite(value)
    }


def _grouped(name: str) -> str:
    if "/" in name:
        return name
    return f"{_GROUP_OF.get(name, 'train')}/{name}"
