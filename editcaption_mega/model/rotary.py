"""Rotary positions: interleaved 3-D for the language model, 2-D for the vision tower. Each is computed once for a row,
not in each layer, and applied by `kernels.rotate`.
"""

from typing import NamedTuple

import torch
from torch import Tensor


class Angles(NamedTuple):
    """Of each token, fp32 [T, head / 2]."""

    cos: Tensor
    sin: Tensor

    @classmethod
    def of(cls, angles: Tensor) -> "Angles":
        return cls(angles.cos(), angles.sin())


def text_angles(position_ids: Tensor, head_dim: int, theta: float, sections: tuple[int, int, int]) -> Angles:
    """Qwen3-VL's interleaved MRoPE (transformers: Qwen3VLTextRotaryEmbedding). position_ids [3, 1, T].

    Frequency channel j rotates by height at j = 1, 4, 7, .. and by width at j = 2, 5, 8, .. below 3 x its section,
    by time elsewhere. Megatron's own class cuts the channels into three chunks instead, which is Qwen2-VL's form."""
    exponent = torch.arange(0, head_dim, 2, dtype=torch.float32, device=position_ids.device) / head_dim
    angles = position_ids[:, 0].float()[..., None] * (1.0 / theta**exponent)  # [3, T, d/2]
    mixed = angles[0].clone()
    for axis in (1, 2):
        channels = slice(axis, 3 * sections[axis], 3)
        mixed[..., channels] = angles[axis][..., channels]
    return Angles.of(mixed)


def vision_angles(position_ids: Tensor, head_dim: int, theta: float = 10000.0) -> Angles:
    """position_ids [patches, 2] (row, column)."""
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=torch.float32, device=position_ids.device) / half
    return Angles.of((position_ids.float()[..., None] / theta**exponent).flatten(1))
