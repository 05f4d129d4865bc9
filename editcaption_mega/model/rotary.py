"""Rotary positions: interleaved 3-D for the language model, 2-D for the vision tower."""

import torch
from megatron.core.models.common.embeddings.rotary_pos_embedding import MultimodalRotaryEmbedding
from torch import Tensor


class InterleavedMRoPE(MultimodalRotaryEmbedding):
    """Qwen3-VL's interleaved MRoPE (transformers: Qwen3VLTextRotaryEmbedding).

    Frequency channel j rotates by height at j = 1, 4, 7, .. and by width at j = 2, 5, 8, .. below 3 x its section,
    by time elsewhere. Megatron's own class cuts the channels into three chunks instead, which is Qwen2-VL's form.
    """

    def forward(self, position_ids: Tensor, mrope_section, packed_seq: bool = False, cp_group=None) -> Tensor:
        """position_ids [3, 1, s] -> angles [s, 1, 1, head_dim]."""
        inverse_frequency = self.inv_freq.to(position_ids.device)
        angles = position_ids.float()[..., None] * inverse_frequency  # [3, 1, s, d/2]
        mixed = angles[0].clone()
        for axis in (1, 2):
            channels = slice(axis, 3 * mrope_section[axis], 3)
            mixed[..., channels] = angles[axis][..., channels]
        return torch.cat((mixed, mixed), -1).transpose(0, 1)[:, :, None, :].contiguous()


def vision_angles(position_ids: Tensor, head_dim: int, theta: float = 10000.0) -> tuple[Tensor, Tensor]:
    """position_ids [patches, 2] (row, column) -> cos and sin [patches, 1, head_dim], fp32."""
    half = head_dim // 2
    exponent = torch.arange(0, half, 2, dtype=torch.float32, device=position_ids.device) / half
    angles = (position_ids.float()[..., None] / theta**exponent).flatten(1)
    angles = torch.cat((angles, angles), -1)[:, None, :]
    return angles.cos(), angles.sin()


def rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotate x [patches, heads, d] in fp32; the two halves of d are the pairs."""
    h = x.float()
    first, second = h.chunk(2, -1)
    return (h * cos + torch.cat((-second, first), -1) * sin).to(x.dtype)
