"""Attention over segments packed in one row, without Transformer Engine.

On CUDA in half precision it is PyTorch's varlen flash attention; elsewhere scaled-dot-product attention over the
segments, batched where their lengths allow it.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
import inspect
import math
from dataclasses import dataclass
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.nn.attention as registry
import torch.nn.functional as F
from megatron.core.packed_seq_params import PackedSeqParams
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.kernels import rotate
from editcaption_mega.words import one_line


class Cuts(NamedTuple):
    """Where the tokens (or keys) of a row are cut into segments: segment i is bounds[i] : bounds[i + 1]."""

    bounds: tuple[int, ...]  # host ints, from 0 to the end of the row
    cu_seqlens: Tensor  # the same, int32 on the device, for varlen kernels

    @classmethod
    def of(cls, bounds: tuple[int, ...], device: torch.device) -> "Cuts":
        # The host does not wait, see `kernels.library_common.bounds_on`.
        return cls(bounds, torch.tensor(bounds, dtype=torch.int32).to(device, non_blocking=True))

    @property
    def lengths(self) -> list[int]:
        return [end - start for start, end in pairwise(self.bounds)]

    @property
    def longest(self) -> int:
        return max(self.lengths)


@dataclass(kw_only=True)
class Segments(PackedSeqParams):
    """Where one row is cut for attention, and by which angles its tokens are rotated: cos and sin are made once for
    the row, and Megatron's own rotary code, which makes them in each layer, has nothing to do.

    Where prompts are shared, the keys of a row are not its tokens one by one: each answer attends to a copy of its
    prompt's keys and values, made by `expand_shared_prompt` after rotary. A segment of queries is then the end of its
    segment of keys (the causal mask is aligned to the bottom right).
    """

    queries: Cuts
    keys: Cuts  # `queries` where no prompt is shared
    key_index: Tensor | None  # [keys] int64, the token of each key; None where no prompt is shared
    angles: tuple[Tensor, Tensor]  # cos and sin of each token, see `rotary.text_angles`

    @classmethod
    def of(cls, batch: PackedBatch, angles: tuple[Tensor, Tensor]) -> "Segments":
        device = batch.input_ids.device
        queries = Cuts.of(batch.bounds, device)
        return cls(
            qkv_format="thd",
            queries=queries,
            keys=queries if batch.key_index is None else Cuts.of(batch.key_bounds, device),
            key_index=batch.key_index,
            angles=angles,
        )

    def expand_shared_prompt(self, tensor: Tensor) -> Tensor:
        """Keys or values of the row [T, ...] -> one copy for each segment that attends to them [keys, ...].

        Backward adds the copies' gradients. On CUDA these are atomic additions, but onto a zero and two at most (a
        prompt has two answers), and a + b = b + a: the sum is the same in every run."""
        return tensor if self.key_index is None else tensor.index_select(0, self.key_index)


def segment_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Cuts,
    keys: Cuts | None = None,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """Attention inside each segment. query [T, heads, d], key and value [keys, kv heads, d] -> [T, heads, d].

    `keys` is given where keys are cut differently from queries (None: T keys, the same cuts); a causal segment of n
    queries and m keys is then its last n: query i sees keys 0 .. m - n + i."""
    keys = queries if keys is None else keys
    grouped = query.size(1) != key.size(1)
    if query.device.type != "cpu" and query.dtype in (torch.float16, torch.bfloat16):
        return flash_attention(query, key, value, queries, keys, causal=causal, scale=scale)
    if keys.bounds != queries.bounds:
        assert causal, "only answers behind a shared prompt have keys of their own"
        # `split`, because the gradient of a slice is as long as the row: one for each segment would be quadratic.
        parts = zip(query.split(queries.lengths), key.split(keys.lengths), value.split(keys.lengths), strict=True)
        return torch.cat([_bottom_right_attention(*part, scale, grouped) for part in parts])
    groups = _groups(queries.bounds, causal)
    return torch.cat([_padded_attention(query, key, value, group, causal, scale, grouped) for group in groups])


def flash_attention(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    queries: Cuts,
    keys: Cuts,
    *,
    causal: bool,
    scale: float,
) -> Tensor:
    """PyTorch's varlen attention, as its 2.11 and later versions take it. Shapes as in `segment_attention`."""
    from torch.nn.attention.varlen import varlen_attn

    # From 2.12 on, fewer kv heads than heads must be asked for; 2.11 takes them as they come.
    takes_gqa = "enable_gqa" in inspect.signature(varlen_attn).parameters
    grouped: dict[str, Any] = {"enable_gqa": query.size(1) != key.size(1)} if takes_gqa else {}
    # Flash attention counts its window from the bottom right: with (-1, 0), query i of n sees keys up to
    # i + m - n of m (flash-attn since 2.1; what PyTorch calls LOWER_RIGHT in torch.nn.attention.bias).
    window = (-1, 0) if causal else (-1, -1)
    out = varlen_attn(
        query, key, value, queries.cu_seqlens, keys.cu_seqlens, queries.longest, keys.longest,
        scale=scale, window_size=window, **grouped,
    )  # fmt: skip
    assert isinstance(out, Tensor), "the log-sum-exp comes along only when it is asked for"
    return out


def use_flash_attention(version: int) -> None:
    """Have this process compute `flash_attention` by that version: 2, PyTorch's own, or 3, of the package flash-attn-3.

    Version 3 wants PyTorch's registry of implementations and a Hopper GPU. Raises ValueError where it cannot be had:
    nothing falls back in silence."""
    active = registry.current_flash_attention_impl() if hasattr(registry, "current_flash_attention_impl") else None
    if version == 2:
        if active is not None:
            registry.restore_flash_attention_impl()
        return
    if active == "FA3":
        return
    problem = _missing_for_flash_attention_3()
    if not problem:
        try:
            registry.activate_flash_attention_impl("FA3")
        except (ImportError, OSError, RuntimeError) as error:
            reason = one_line(str(error), 300)
            problem = f"the package flash-attn-3 for this PyTorch and CUDA, which cannot be used here ({reason})"
    if problem:
        raise ValueError(f"model.flash_attention=3 needs {problem}: set model.flash_attention=2, or provide it")


def _missing_for_flash_attention_3() -> str:
    """What of the machine and of PyTorch is not as it has to be, or nothing."""
    if not torch.cuda.is_available():
        return "a Hopper GPU, and PyTorch sees no GPU here"
    if (capability := torch.cuda.get_device_capability())[0] != 9:
        return "a Hopper GPU (compute capability 9.0), and this one has {}.{}".format(*capability)
    if not hasattr(registry, "list_flash_attention_impls") or "FA3" not in registry.list_flash_attention_impls():
        return f"a PyTorch that FlashAttention-3 can be registered with, and this is {torch.__version__}"
    return ""


def _bottom_right_attention(query: Tensor, key: Tensor, value: Tensor, scale: float, grouped: bool) -> Tensor:
    """One causal segment whose n queries are the last n of its m keys. -> [n, heads, d]."""
    missing, mask = key.size(0) - query.size(0), None
    if missing:
        mask = query.new_ones(query.size(0), key.size(0), dtype=torch.bool).tril(missing)
    query, key, value = (tensor.transpose(0, 1).unsqueeze(0) for tensor in (query, key, value))
    out = F.scaled_dot_product_attention(
        query, key, value, attn_mask=mask, is_causal=mask is None, scale=scale, enable_gqa=grouped
    )
    return out.squeeze(0).transpose(0, 1)


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
        segments = packed_seq_params
        query, key = rotate(query, key, *segments.angles)
        return self.attend(query, segments.expand_shared_prompt(key), segments.expand_shared_prompt(value), segments)

    def attend(self, query: Tensor, key: Tensor, value: Tensor, segments: Segments) -> Tensor:
        """What a backend with another attention overrides: query [T, heads/tp, d], and for each key of
        `segments.keys` key and value [keys, kv heads/tp, d] -> [T, heads/tp, d], each segment by itself."""
        return segment_attention(
            query, key, value, segments.queries, segments.keys, causal=self.causal, scale=self.scale
        )
