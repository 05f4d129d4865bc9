"""The table: for each parameter of the model, its whole shape, how it is split, and where Hugging Face keeps it.

Each parameter has a *canonical* tensor: the whole weight, with an axis of its own for whatever is split (query
groups, gate and up, experts). A shard is a box of it. `Piece`s say which box of the canonical tensor is which box of
which Hugging Face tensor. Everything reads this one table: loading a folder into any layout, checkpoints, optimizer
state, and writing a folder. Layout facts: docs/weights.md.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from math import prod
from types import MappingProxyType
from typing import Any

from torch import Tensor

from editcaption_mega.model import Architecture

Shape = tuple[int, ...]


@dataclass(frozen=True)
class Box:
    """A region of a tensor: start and length along each axis."""

    start: Shape
    shape: Shape

    @classmethod
    def whole(cls, shape: Shape) -> "Box":
        return cls((0,) * len(shape), tuple(shape))

    def intersect(self, other: "Box") -> "Box | None":
        """The common region, or None."""
        start = tuple(max(a, b) for a, b in zip(self.start, other.start, strict=True))
        end = tuple(min(a, b) for a, b in zip(self.end, other.end, strict=True))
        if any(e <= s for s, e in zip(start, end, strict=True)):
            return None
        return Box(start, tuple(e - s for s, e in zip(start, end, strict=True)))

    @property
    def end(self) -> Shape:
        return tuple(s + n for s, n in zip(self.start, self.shape, strict=True))

    @property
    def size(self) -> int:
        return prod(self.shape)

    def within(self, outer: "Box") -> tuple[slice, ...]:
        """Slices that pick this box out of a tensor that holds `outer`."""
        return tuple(slice(s - o, s - o + n) for s, o, n in zip(self.start, outer.start, self.shape, strict=True))

    def flat_range(self, start: int, end: int) -> Iterator["Box"]:
        """The boxes that elements [start, end) of this one, flattened, consist of, in order: at most one fewer than
        twice its axes."""
        for offset, shape in _boxes_of_range(self.shape, start, end):
            yield Box(tuple(s + o for s, o in zip(self.start, offset, strict=True)), shape)


def _boxes_of_range(shape: Shape, start: int, end: int) -> Iterator[tuple[Shape, Shape]]:
    """(offset, shape) of the boxes that elements [start, end) of a flattened tensor are: the end of a row, whole rows,
    the beginning of a row."""
    if start >= end:
        return
    if not shape:
        yield (), ()
        return
    size = prod(shape[1:])
    first, last = -(-start // size), end // size  # whole rows
    if first > last:
        yield from _within_row(shape, last, start, end)
        return
    yield from _within_row(shape, first - 1, start, first * size)
    if first < last:
        yield (first, *(0 for _ in shape[1:])), (last - first, *shape[1:])
    yield from _within_row(shape, last, last * size, end)


def _within_row(shape: Shape, row: int, start: int, end: int) -> Iterator[tuple[Shape, Shape]]:
    size = prod(shape[1:])
    for offset, part in _boxes_of_range(shape[1:], start - row * size, end - row * size):
        yield (row, *offset), (1, *part)


@dataclass(frozen=True)
class Piece:
    """`box` of the canonical tensor is a region of Hugging Face tensor `name` (whole shape `hf_shape`).

    The region starts at hf_offset. Axes correspond one to one, except that
    - `merged` > 1: the first `merged` axes of the box are one axis of the Hugging Face tensor (all but the first of
      them whole in the box),
    - `transposed`: the last two axes are swapped in the Hugging Face tensor (experts are stored [in, out]),
    - `flattened`: the Hugging Face tensor has more axes, which the canonical one flattens behind the first.
    """

    name: str
    hf_shape: Shape
    box: Box
    hf_offset: Shape = ()
    merged: int = 1
    dropped: int | None = None  # an axis of length 1 that only the canonical tensor has
    transposed: bool = False
    flattened: bool = False

    def region(self, part: Box) -> tuple[slice, ...]:
        """Slices of the Hugging Face tensor for `part`, a box inside `self.box`."""
        if self.flattened:
            assert part.start[1:] == self.box.start[1:] and part.shape[1:] == self.box.shape[1:]
            rest = (slice(None),) * (len(self.hf_shape) - 1)
            return (slice(part.start[0], part.start[0] + part.shape[0]), *rest)
        start = [p - b for p, b in zip(part.start, self.box.start, strict=True)]
        length = list(part.shape)
        if self.dropped is not None:
            del start[self.dropped], length[self.dropped]
        if self.merged > 1:
            inner = self.box.shape[1 : self.merged]
            assert tuple(length[1 : self.merged]) == inner, "inner merged axes are never split"
            start = [start[0] * prod(inner), *start[self.merged :]]
            length = [length[0] * prod(inner), *length[self.merged :]]
        if self.transposed:
            start[-1], start[-2] = start[-2], start[-1]
            length[-1], length[-2] = length[-2], length[-1]
        offset = self.hf_offset or (0,) * len(start)
        return tuple(slice(o + s, o + s + n) for o, s, n in zip(offset, start, length, strict=True))

    def to_canonical(self, values: Tensor, part: Box) -> Tensor:
        """The Hugging Face region of `part` in the form of the canonical tensor."""
        return (values.transpose(-1, -2) if self.transposed else values).reshape(part.shape)

    def to_hf(self, values: Tensor, part: Box | None = None) -> Tensor:
        """A part (None: all) of `self.box` of the canonical tensor in the form of its Hugging Face region."""
        if self.dropped is not None:
            values = values.squeeze(self.dropped)
        if self.merged > 1:
            values = values.flatten(0, self.merged - 1)
        if self.transposed:
            values = values.transpose(-1, -2)
        region = self.region(part or self.box)
        return values.reshape([len(range(*s.indices(n))) for s, n in zip(region, self.hf_shape, strict=True)])


@dataclass(frozen=True)
class Rule:
    """One parameter: `name` (layer numbers global), canonical shape, split axes, Hugging Face pieces."""

    name: str
    shape: Shape
    pieces: tuple[Piece, ...]
    tensor_axis: int | None = None  # split over tensor-parallel ranks
    expert_axis: int | None = None  # split over expert-parallel ranks
    expert_tensor_axis: int | None = None  # split over expert-tensor-parallel ranks
    module: str = "language"  # vision | merger | language | router: for learning rates and freezing
    aliases: tuple[str, ...] = ()  # other parameters that hold the same weight (tied embeddings on the last stage)

    @property
    def size(self) -> int:
        """Values of the whole tensor."""
        return prod(self.shape)


@lru_cache(maxsize=4)
def rules_for(
    architecture: Architecture, *, experts_in_out: bool = False, experts_apart: bool = False
) -> Mapping[str, Rule]:
    """Rules by parameter name (`Qwen3VLModel.named_parameters`, layer numbers global), aliases included. Made once for
    an architecture; nobody can change it.

    experts_in_out: the folder stores expert weights as [expert, in, out], as the released models do; transformers 5
    reads both and writes [expert, out, in]. experts_apart: each expert's three matrices are tensors of their own, as
    quantized releases have them."""
    rules = _language(architecture, experts_in_out) + _vision(architecture)
    if experts_apart:
        rules = [_apart(rule) for rule in rules]
    table = {rule.name: rule for rule in rules}
    for rule in rules:
        table.update(dict.fromkeys(rule.aliases, rule))
    return MappingProxyType(table)


def unique_rules(rules: Mapping[str, Rule]) -> list[Rule]:
    """Each rule once, without aliases, in the table's order."""
    return list({rule.name: rule for rule in rules.values()}.values())


def _same(name: str, hf_name: str, shape: Shape, **options: Any) -> Rule:
    return Rule(name, shape, (Piece(hf_name, shape, Box.whole(shape)),), **options)


def _language(a: Architecture, experts_in_out: bool) -> list[Rule]:
    hf, hidden = "model.language_model.", a.hidden_size
    vocabulary = (a.vocab_size, hidden)
    output = "language.output_layer.weight"
    rules = [
        _same(
            "language.embedding.word_embeddings.weight",
            hf + "embed_tokens.weight",
            vocabulary,
            tensor_axis=0,
            aliases=(output,) if a.tied_embeddings else (),
        ),
        _same("language.decoder.final_layernorm.weight", hf + "norm.weight", (hidden,)),
    ]
    if not a.tied_embeddings:
        rules.append(_same(output, "lm_head.weight", vocabulary, tensor_axis=0))
    for layer in range(a.num_layers):
        rules += _decoder_layer(a, f"language.decoder.layers.{layer}.", f"{hf}layers.{layer}.", experts_in_out)
    return rules


def _decoder_layer(a: Architecture, name: str, hf: str, experts_in_out: bool) -> list[Rule]:
    hidden, d, groups, n = a.hidden_size, a.head_dim, a.num_kv_heads, a.queries_per_group
    attention = name + "self_attention."
    rules = [
        _same(name + "input_layernorm.weight", hf + "input_layernorm.weight", (hidden,)),
        _same(name + "pre_mlp_layernorm.weight", hf + "post_attention_layernorm.weight", (hidden,)),
        _same(attention + "q_layernorm.weight", hf + "self_attn.q_norm.weight", (d,)),
        _same(attention + "k_layernorm.weight", hf + "self_attn.k_norm.weight", (d,)),
        _same(
            attention + "linear_proj.weight", hf + "self_attn.o_proj.weight", (hidden, a.num_heads * d), tensor_axis=1
        ),
        # Per kv group: its n query heads, then its key, then its value.
        Rule(
            attention + "linear_qkv.weight",
            (groups, (n + 2) * d, hidden),
            tuple(
                Piece(
                    f"{hf}self_attn.{which}_proj.weight",
                    (groups * rows, hidden),
                    Box((0, first, 0), (groups, rows, hidden)),
                    merged=2,
                )
                for which, first, rows in (("q", 0, n * d), ("k", n * d, d), ("v", (n + 1) * d, d))
            ),
            tensor_axis=0,
        ),
    ]
    return rules + (_dense_mlp(a, name, hf) if a.experts is None else _expert_mlp(a, name, hf, experts_in_out))


def _dense_mlp(a: Architecture, name: str, hf: str) -> list[Rule]:
    ffn, hidden = a.intermediate_size, a.hidden_size
    gate_up = tuple(
        Piece(f"{hf}mlp.{which}_proj.weight", (ffn, hidden), Box((half, 0, 0), (1, ffn, hidden)), dropped=0)
        for half, which in enumerate(("gate", "up"))
    )
    return [
        Rule(name + "mlp.linear_fc1.weight", (2, ffn, hidden), gate_up, tensor_axis=1),
        _same(name + "mlp.linear_fc2.weight", hf + "mlp.down_proj.weight", (hidden, ffn), tensor_axis=1),
    ]


def _expert_mlp(a: Architecture, name: str, hf: str, in_out: bool) -> list[Rule]:
    assert a.experts is not None, "a dense model has no experts"
    hidden, experts, ffn = a.hidden_size, a.experts.num_experts, a.experts.intermediate_size

    def piece(which: str, rows: int, columns: int, box: Box, offset: int = 0, dropped: int | None = None) -> Piece:
        # rows and columns of the file's matrix in [out, in] form; `offset` rows down.
        shape, start = (experts, rows, columns), (0, offset, 0)
        if in_out:
            shape, start = (experts, columns, rows), (0, 0, offset)
        return Piece(f"{hf}mlp.experts.{which}", shape, box, start, dropped=dropped, transposed=in_out)

    gate_up = tuple(
        piece("gate_up_proj", 2 * ffn, hidden, Box((0, half, 0, 0), (experts, 1, ffn, hidden)), half * ffn, dropped=1)
        for half in (0, 1)
    )
    down = piece("down_proj", hidden, ffn, Box.whole((experts, hidden, ffn)))
    return [
        _same(name + "mlp.router.weight", hf + "mlp.gate.weight", (experts, hidden), module="router"),
        Rule(name + "mlp.experts.gate_up", (experts, 2, ffn, hidden), gate_up, expert_axis=0, expert_tensor_axis=2),
        Rule(name + "mlp.experts.down", (experts, hidden, ffn), (down,), expert_axis=0, expert_tensor_axis=2),
    ]


def _apart(rule: Rule) -> Rule:
    """The rule of experts where each has tensors of its own; any other as it is."""
    if rule.expert_axis is None:
        return rule
    experts, *_, rows, columns = rule.shape
    prefix = rule.pieces[0].name.rpartition(".")[0]

    def piece(expert: int, which: str, *half: int) -> Piece:
        box = Box((expert, *half, 0, 0), (1, *(1 for _ in half), rows, columns))
        name, merged = f"{prefix}.{expert}.{which}_proj.weight", len(box.shape) - 1
        return Piece(name, (rows, columns), box, merged=merged)

    halves = (("gate", 0), ("up", 1)) if len(rule.shape) == 4 else (("down",),)
    return replace(rule, pieces=tuple(piece(expert, *half) for expert in range(experts) for half in halves))


def _vision(a: Architecture) -> list[Rule]:
    v, name, hf = a.vision, "vision.", "model.visual."
    d, ffn, merged = v.hidden_size, v.intermediate_size, v.merged_size
    patch = (d, v.in_channels, v.temporal_patch_size, v.patch_size, v.patch_size)
    flat = (d, v.patch_dim)
    embed = Piece(hf + "patch_embed.proj.weight", patch, Box.whole(flat), flattened=True)
    rules = [
        Rule(name + "patch_embed.weight", flat, (embed,), module="vision"),
        _same(name + "patch_embed.bias", hf + "patch_embed.proj.bias", (d,), module="vision"),
        _same(name + "pos_embed.weight", hf + "pos_embed.weight", (v.num_position_embeddings, d), module="vision"),
    ]

    def linear(at: str, hf_at: str, rows: int, columns: int, module: str) -> list[Rule]:
        return [
            _same(f"{name}{at}.weight", f"{hf}{hf_at}.weight", (rows, columns), module=module),
            _same(f"{name}{at}.bias", f"{hf}{hf_at}.bias", (rows,), module=module),
        ]

    def norm(at: str, hf_at: str, width: int, module: str) -> list[Rule]:
        return [
            _same(f"{name}{at}.{part}", f"{hf}{hf_at}.{part}", (width,), module=module) for part in ("weight", "bias")
        ]

    for i in range(v.depth):
        block = f"blocks.{i}."
        rules += norm(block + "norm1", block + "norm1", d, "vision") + norm(
            block + "norm2", block + "norm2", d, "vision"
        )
        for at, rows, columns in (
            ("attn.qkv", 3 * d, d),
            ("attn.proj", d, d),
            ("mlp.linear_fc1", ffn, d),
            ("mlp.linear_fc2", d, ffn),
        ):
            rules += linear(block + at, block + at, rows, columns, "vision")
    mergers = [("merger.", "merger.", d)]
    for i in range(len(v.deepstack_layers)):
        mergers.append((f"deepstack_mergers.{i}.", f"deepstack_merger_list.{i}.", merged))
    for at, hf_at, norm_width in mergers:
        rules += norm(at + "norm", hf_at + "norm", norm_width, "merger")
        rules += linear(at + "linear_fc1", hf_at + "linear_fc1", merged, merged, "merger")
        rules += linear(at + "linear_fc2", hf_at + "linear_fc2", v.out_hidden_size, merged, "merger")
    return rules
