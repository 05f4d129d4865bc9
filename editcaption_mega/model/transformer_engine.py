"""Layers of the `transformer_engine` backend: those of Megatron's public provider, and attention that knows segments.

Relied upon beyond it, and held by tests/model/test_transformer_engine.py: Megatron's attention wraps TE's
`DotProductAttention` as its only base class, and its linears take TE's fusion from their config. Written for
megatron-core 0.19, whose `AttnMaskType` lacks the mask that shared prompts need.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
import copy
from typing import Any, NamedTuple

import torch
from torch import Tensor

from editcaption_mega.kernels import rotate

from .attention import Segments


class Modules(NamedTuple):
    """Classes for a layer's spec."""

    column_parallel_linear: type
    row_parallel_linear: type
    norm: type
    core_attention: type


def transformer_engine_modules() -> Modules:
    """TE's linears, norm and attention. Imports TE: `layers.check_backend` says whether it is there."""
    from megatron.core.extensions.transformer_engine_spec_provider import TESpecProvider

    provider = TESpecProvider()
    return Modules(
        fusing(provider.column_parallel_linear()),
        fusing(provider.row_parallel_linear()),
        provider.layer_norm(rms_norm=True, for_qk=True),
        segment_attention_class(provider.core_attention()),
    )


def fusing(linear: Any) -> type[torch.nn.Module]:
    """One of Megatron's wrappers of TE's linears, whose weight gradients TE's own product adds to `main_grad`, as the
    setting `model.fused_weight_gradients` says. Megatron's option for it would ask its other linears for Apex."""

    class FusingLinear(linear):
        def __init__(self, *args: Any, config: Any, **options: Any):
            fused = copy.copy(config)
            fused.gradient_accumulation_fusion = config.fused_weight_gradients
            super().__init__(*args, config=fused, **options)

    return FusingLinear


def segment_attention_class(megatron_attention: Any) -> type[torch.nn.Module]:
    """Megatron's wrapper of TE's attention, given segment bounds, after the rotation by the row's angles.

    Segments whose keys outnumber their queries (shared prompts) need TE's `padding_causal_bottom_right` mask, which
    Megatron's `AttnMaskType` lacks and its wrapper can't pass on: the forward of the class that it wraps, TE's own
    `DotProductAttention`, is called for them."""
    from megatron.core.packed_seq_params import PackedSeqParams

    (wrapped,) = megatron_attention.__bases__

    class SegmentTEAttention(megatron_attention):
        def forward(
            self, query: Tensor, key: Tensor, value: Tensor, attention_mask=None, packed_seq_params=None, **kwargs
        ) -> Tensor:
            segments: Segments = packed_seq_params
            query, key = rotate(query, key, *segments.angles)
            cuts = dict(
                qkv_format="thd",
                cu_seqlens_q=segments.queries.cu_seqlens,
                cu_seqlens_kv=segments.keys.cu_seqlens,
                max_seqlen_q=segments.queries.longest,
                max_seqlen_kv=segments.keys.longest,
            )
            if segments.key_index is None:
                packed = PackedSeqParams(**cuts)
                return super().forward(query, key, value, attention_mask, packed_seq_params=packed, **kwargs)
            return wrapped.forward(
                self,
                query,
                segments.expand_shared_prompt(key),
                segments.expand_shared_prompt(value),
                attn_mask_type="padding_causal_bottom_right",
                **cuts,
            )

    return SegmentTEAttention
