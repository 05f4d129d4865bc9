"""The vision tower, in plain PyTorch, replicated on every tensor-parallel rank of the first pipeline stage.

It is a tenth of the compute of the large models and small in memory, so its weights are not sharded. Under sequence
parallelism a row's pictures are divided over the tensor-parallel ranks: whole ones, where that gives all ranks about as
many patches. Else patches are divided evenly, whatever the pictures' number and sizes; attention, which needs whole
pictures, then divides the heads instead (as DeepSpeed-Ulysses does, arXiv 2309.14509), with an all-to-all before it and
one behind. `gather_images` brings the features together.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from collections.abc import Sequence
from typing import Any

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import all_to_all
from torch import Tensor, nn
from torch.distributed import ProcessGroup
from torch.utils.checkpoint import checkpoint

from editcaption_mega.data.batching.batch import ImageBatch
from editcaption_mega.data.images.patches import normalized
from editcaption_mega.kernels import rotate

from .architecture import VisionArchitecture
from .attention import Cuts, segment_attention
from .parallel.linears import Linear
from .rotary import Angles, vision_angles


class PatchEmbedding(nn.Linear):
    """Pixels of patches -> hidden states: the reference's Conv3d, whose stride is its kernel, as a matrix product.

    The weight is the reference's, flattened: [hidden, channels x frames x rows x columns]. The frames of a picture are
    equal, so the kernels of all frames are added up first, and pixels need to be there once."""

    def __init__(self, vision: VisionArchitecture):
        super().__init__(vision.patch_dim, vision.hidden_size)
        self.vision = vision

    def forward(self, x: Tensor) -> Tensor:
        """x [patches, rows x columns x channels], normalized, in the dtype of the weight -> [patches, hidden]."""
        channels = self.weight.view(len(self.weight), self.vision.in_channels, self.vision.temporal_patch_size, -1)
        folded = channels.float().sum(2).transpose(1, 2).flatten(1)
        return F.linear(x, folded.to(x.dtype), self.bias)


class VisionAttention(nn.Module):
    def __init__(self, vision: VisionArchitecture, group: ProcessGroup | None, linear: type[Linear]):
        super().__init__()
        self.group = group
        self.num_heads, self.scale = vision.num_heads, vision.head_dim**-0.5
        self.qkv = linear(vision.hidden_size, 3 * vision.hidden_size)
        self.proj = linear(vision.hidden_size, vision.hidden_size)

    def forward(self, x: Tensor, angles: Angles, images: ImageBatch) -> Tensor:
        query, key, value = self.qkv(x).view(x.size(0), 3, self.num_heads, -1).unbind(1)
        query, key = rotate(query, key, *angles)
        cuts = Cuts(images.bounds, images.cu_seqlens)
        if images.whole_pictures:
            if images.num_ranks > 1:
                value = value.contiguous()  # where memory is short: a view keeps what query and key were, too
            out = segment_attention(query, key, value, cuts, causal=False, scale=self.scale)
        else:
            assert self.group is not None and self.group.size() == images.num_ranks
            query, key, value = some_heads((query, key, value), self.group)
            out = segment_attention(query, key, value, cuts, causal=False, scale=self.scale)
            out = all_heads(out, self.group)
        return self.proj(out.flatten(1))


def some_heads(parts: Sequence[Tensor], group: ProcessGroup) -> tuple[Tensor, ...]:
    """Of each, this rank's patches, all heads [p, heads, d] -> all patches, its heads [p ranks, heads / ranks, d]."""
    split = [part.unflatten(1, (group.size(), -1)).transpose(0, 1) for part in parts]
    return all_to_all(group, torch.stack(split, 2)).flatten(0, 1).unbind(1)


def all_heads(whole: Tensor, group: ProcessGroup) -> Tensor:
    """All patches with this rank's heads [p ranks, heads / ranks, d] -> its patches with all heads [p, heads, d]."""
    split = all_to_all(group, whole.unflatten(0, (group.size(), -1)).contiguous())
    return split.transpose(0, 1).flatten(1, 2)


class VisionMLP(nn.Module):
    def __init__(self, vision: VisionArchitecture, linear: type[Linear]):
        super().__init__()
        self.linear_fc1 = linear(vision.hidden_size, vision.intermediate_size)
        self.linear_fc2 = linear(vision.intermediate_size, vision.hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        return self.linear_fc2(F.gelu(self.linear_fc1(x), approximate="tanh"))


class VisionBlock(nn.Module):
    def __init__(self, vision: VisionArchitecture, group: ProcessGroup | None, linear: type[Linear]):
        super().__init__()
        self.norm1 = nn.LayerNorm(vision.hidden_size, eps=1e-6)
        self.norm2 = nn.LayerNorm(vision.hidden_size, eps=1e-6)
        self.attn = VisionAttention(vision, group, linear)
        self.mlp = VisionMLP(vision, linear)

    def forward(self, x: Tensor, angles: Angles, images: ImageBatch) -> Tensor:
        x = x + self.attn(self.norm1(x), angles, images)
        return x + self.mlp(self.norm2(x))


class PatchMerger(nn.Module):
    """Joins merge x merge neighboring patches into one token of the language model's width.

    The main merger normalizes each patch before joining, the DeepStack mergers the joined vector after it."""

    def __init__(self, vision: VisionArchitecture, norm_after_join: bool, linear: type[Linear]):
        super().__init__()
        self.width, self.norm_after_join = vision.merged_size, norm_after_join
        self.norm = nn.LayerNorm(vision.merged_size if norm_after_join else vision.hidden_size, eps=1e-6)
        self.linear_fc1 = linear(vision.merged_size, vision.merged_size)
        self.linear_fc2 = linear(vision.merged_size, vision.out_hidden_size)

    def forward(self, x: Tensor) -> Tensor:
        x = self.norm(x.view(-1, self.width)) if self.norm_after_join else self.norm(x).view(-1, self.width)
        return self.linear_fc2(F.gelu(self.linear_fc1(x)))


class VisionTower(nn.Module):
    """Patches -> tokens of the language model, with one extra set per DeepStack layer."""

    def __init__(
        self,
        vision: VisionArchitecture,
        *,
        recompute: bool = False,
        group: ProcessGroup | None = None,
        fused_weight_gradients: bool = True,
        linear: type[Linear] = Linear,
    ):
        """group: the ranks that share the pictures of a row; None where each computes all of them. linear: the class of
        its linear layers."""
        super().__init__()
        self.vision, self.recompute = vision, recompute
        self.patch_embed = PatchEmbedding(vision)
        self.pos_embed = nn.Embedding(vision.num_position_embeddings, vision.hidden_size)
        self.blocks = nn.ModuleList(VisionBlock(vision, group, linear) for _ in range(vision.depth))
        self.merger = PatchMerger(vision, False, linear)
        self.deepstack_mergers = nn.ModuleList(PatchMerger(vision, True, linear) for _ in vision.deepstack_layers)
        for module in self.modules():
            if isinstance(module, Linear):
                module.fused, module.group = fused_weight_gradients, group

    def forward(self, images: ImageBatch) -> Tensor:
        """This rank's patches -> [tokens, 1 + DeepStack layers, hidden]: visual embedding, DeepStack features."""
        dtype = self.patch_embed.weight.dtype
        x = self.patch_embed(normalized(images.pixels, images.normalization).to(dtype))
        learned = self.pos_embed(images.interpolation_index) * images.interpolation_weight[..., None].to(dtype)
        x = x + learned.sum(1)
        angles = vision_angles(images.position_ids, self.vision.head_dim)
        deepstack_features = {}
        for depth, block in enumerate(self.blocks):
            if self.recompute and torch.is_grad_enabled():
                x = checkpoint(block, x, angles, images, use_reentrant=False)
            else:
                x = block(x, angles, images)
            if depth in self.vision.deepstack_layers:
                deepstack_features[depth] = x
        features = [self.merger(x)]
        for merger, depth in zip(self.deepstack_mergers, self.vision.deepstack_layers, strict=True):
            features.append(merger(deepstack_features[depth]))
        return torch.stack(features, 1)


class _GatherImages(torch.autograd.Function):
    """All-gather equal-sized parts, and take what stands at `places`, in order; backward takes what came from the own
    part: every rank holds the whole, equal gradient."""

    @staticmethod
    def forward(ctx: Any, part: Tensor, group: ProcessGroup, places: Sequence[slice]) -> Tensor:
        ctx.places, first = places, group.rank() * part.size(0)
        ctx.own = range(first, first + part.size(0))
        whole = part.new_empty(part.size(0) * group.size(), *part.shape[1:])
        dist.all_gather_into_tensor(whole, part.contiguous(), group=group)
        return _joined([whole[place] for place in places])

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None]:
        pieces, missing, at = [], len(ctx.own), 0
        for place in ctx.places:
            start, stop = max(place.start, ctx.own.start), min(place.stop, ctx.own.stop)
            if start < stop:
                pieces.append(grad[at + start - place.start : at + stop - place.start])
                missing -= stop - start
            at += place.stop - place.start
        if missing:
            pieces.append(grad.new_zeros(missing, *grad.shape[1:]))
        return _joined(pieces), None, None


def _joined(pieces: list[Tensor]) -> Tensor:
    return pieces[0] if len(pieces) == 1 else torch.cat(pieces)


def gather_images(features: Tensor, images: ImageBatch, group: ProcessGroup) -> Tensor:
    """Features of this rank's part [tokens / ranks, ...] -> those of all pictures of the row, in its order.

    In a row without pictures they are those of nothing, times zero: every rank joins the collectives and every weight
    has a gradient."""
    if not images.num_tokens:
        return features * 0
    if images.num_ranks > 1:
        gathered: Tensor = _GatherImages.apply(features, group, images.places)
        return gathered
    return features
