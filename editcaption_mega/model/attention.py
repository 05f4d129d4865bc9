"""Attention over segments packed in one row, without Transformer Engine.

On CUDA in half precision it is PyTorch's varlen flash attention; elsewhere scaled-dot-product attention over the
segments, batched where their lengths allow it.
"""

import math
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor


@dataclass
class Segments(PackedSeqParams):
    """Where one row is cut for attention.

    `cu_seqlens_q/kv` (the base class) stay [0, row] on the host: Megatron's rotary code reads them as Python ints
    in each layer, which would be a device sync, and the 3-D positions cover the whole row anyway.
    """

    bounds: tuple[int, ...] = ()  # host ints: segment i is rows bounds[i] : bounds[i + 1]; covers the row
    cu_seqlens: Tensor | None = None  # the same, int32 on the device, for varlen kernels

    @classmethod
    def of(cls, bounds: tuple[int, ...], device: torch.device) -> "Segments":
        row = torch.tensor([0, bounds[-1]], dtype=torch.int32)
        return cls(
            qkv_format="thd",
            cu_seqlens_q=row,
            cu_seqlens_kv=row,
            max_seqlen_q=bounds[-1],
            max_seqlen_kv=bounds[-1],
            bounds=bounds,
            cu_seqlens=torch.tensor(bounds, dtype=torch.int32).to(device, non_blocking=True),
        )


def segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    bounds: tuple[int, ...],
    cu_seqlens: Tensor,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """Attention inside each segment. query [T, heads, d], key and value [T, kv heads, d] -> [T, heads, d]."""
    grouped = query.size(1) != key.size(1)
    if query.is_cuda and query.dtype in (torch.float16, torch.bfloat16):
        from torch.nn.attention.varlen import varlen_attn

        longest = max(end - start for start, end in zip(bounds, bounds[1:], strict=False))
        window = (-1, 0) if causal else (-1, -1)
        return varlen_attn(
            query, key, value, cu_seqlens, cu_seqlens, longest, longest,
            scale=scale, window_size=window, enable_gqa=grouped,
        )  # fmt: skip
    out = [_padded_attention(query, key, value, group, causal, scale, grouped) for group in _groups(bounds, causal)]
    return torch.cat(out)


def _groups(bounds: tuple[int, ...], causal: bool) -> list[tuple[int, ...]]:
    """Neighbouring segments that one padded call serves well: equal lengths, or (causal) at most 1.5 x the work."""
    groups: list[list[int]] = []
    longest = area = 0
    for start, end in zip(bounds, bounds[1:], strict=False):
        length = end - start
        if groups:
            new_longest, new_area = max(longest, length), area + length * length
            count = len(groups[-1])
            fits = count * new_longest**2 <= 1.5 * new_area if causal else length == longest
            if fits:
                groups[-1].append(end)
                longest, area = new_longest, new_area
                continue
        groups.append([start, end])
        longest, area = length, length * length
    return [tuple(group) for group in groups]


def _padded_attention(query, key, value, bounds, causal, scale, grouped) -> Tensor:
    """One call for a group of segments. Padding sits behind each segment, where causal attention never looks."""
    lengths = [end - start for start, end in zip(bounds, bounds[1:], strict=False)]
    longest, count = max(lengths), len(lengths)
    rows = slice(bounds[0], bounds[-1])

    if min(lengths) == longest:
        pad = unpad = None
    else:
        inside = torch.zeros(count, longest, dtype=torch.bool)
        for i, length in enumerate(lengths):
            inside[i, :length] = True
        unpad = inside.flatten().nonzero().squeeze(1).to(query.device)
        pad = (inside.flatten().cumsum(0) - 1).clamp_(min=0).to(query.device)

    def batched(tensor: Tensor) -> Tensor:
        tensor = tensor[rows]
        if pad is not None:
            tensor = tensor.index_select(0, pad)
        return tensor.view(count, longest, *tensor.shape[1:]).transpose(1, 2)

    out = F.scaled_dot_product_attention(
        batched(query), batched(key), batched(value), is_causal=causal, scale=scale, enable_gqa=grouped
    )
    out = out.transpose(1, 2).reshape(count * longest, query.size(1), query.size(2))
    return out if unpad is None else out.index_select(0, unpad)


class SegmentCoreAttention(MegatronModule):
    """The `core_attention` of the `torch` backend: packed rows (`Segments`), grouped queries, no dropout."""

    def __init__(
        self,
        config,
        layer_number,
        attn_mask_type,
        attention_type,
        attention_dropout=None,
        softmax_scale=None,
        cp_comm_type=None,
        pg_collection=None,
        **kwargs,
    ):
        super().__init__(config=config)
        assert config.attention_dropout == 0.0 and config.context_parallel_size == 1
        self.scale = softmax_scale or 1.0 / math.sqrt(config.kv_channels)
        self.causal = attn_mask_type in (AttnMaskType.causal, AttnMaskType.padding_causal)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None = None,
        attn_mask_type: AttnMaskType | None = None,
        attention_bias: Tensor | None = None,
        packed_seq_params: Segments | None = None,
    ) -> Tensor:
        """query [T, heads/tp, d], key and value [T, kv heads/tp, d] -> [T, heads/tp, d]."""
        assert isinstance(packed_seq_params, Segments), "rows are always packed: positions and bounds come from data"
        return segment_attention(
            query, key, value, packed_seq_params.bounds, packed_seq_params.cu_seqlens,
            causal=self.causal, scale=self.scale,
        )  # fmt: skip
