"""Linear layers of the model with adapters beside their frozen weights.

Tensor parallelism: what a column-parallel layer reads is not divided, so its A is whole on each rank and its B divided
as the weight's rows; of a row-parallel layer A is divided as the weight's columns, and B whole. What travels is A x, of
`rank` channels. Under sequence parallelism a rank's gradient of a whole parameter is that of its own tokens, and
Megatron adds these up (`sequence_parallel`), as for norms.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.tensor_parallel import (
    copy_to_tensor_model_parallel_region,
    gather_from_sequence_parallel_region,
    reduce_from_tensor_model_parallel_region,
    reduce_scatter_to_sequence_parallel_region,
)
from megatron.core.transformer.moe.router import TopKRouter
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from ..parallel.adapter_plan import AdapterPart, AdapterPlan
from ..parallel.delayed_gradients import GradientRule
from ..parallel.linears import LanguageConfig, Linear, multiply
from ..parallel.marks import mark
from .low_rank import LowRank


class Output(NamedTuple):
    """What an adapter makes of the layer's input."""

    adapter: LowRank
    added: Tensor  # s B A x [.., rows of the part], x after dropout
    dropped: Tensor | None  # with DoRA and dropout: the layer's own output for that x [.., rows], as PEFT uses it


class AdaptedWeight(nn.Module):
    """What layers with one weight [rows, in] have in common: their adapters by the last word of the module's name."""

    weight: nn.Parameter
    adapters: nn.ModuleDict
    plan: AdapterPlan | None = None  # set where there are adapters

    def attach(self, plan: AdapterPlan, parts: tuple[AdapterPart, ...], name: str) -> None:
        """Make the adapters. name: of the weight in the whole model."""
        self.plan = plan
        self.adapters = nn.ModuleDict({part.leaf: LowRank(plan, part, name, self.weight) for part in parts})
        for adapter in self.adapters.values():
            self.mark(adapter)

    def mark(self, adapter: Any) -> None:
        """Tell Megatron how the parameters are divided."""
        raise NotImplementedError

    @property
    def scale(self) -> float:
        assert self.plan is not None, "there are adapters"
        return self.plan.scale

    @property
    def parts(self) -> list[LowRank]:
        """The adapters that take part now."""
        active = self.plan is not None and self.plan.switch.on
        return list(self.adapters.values()) if active else []  # type: ignore[arg-type]

    def norms(self, adapter: LowRank) -> Tensor:
        """Of the rows of the weight with the adapter in them [rows]; constants."""
        changed = adapter.changed(self._rows(adapter.part))
        squares = changed.square().sum(1) if self.norm_group is not None else None
        if squares is None:
            return torch.linalg.norm(changed, dim=1)
        dist.all_reduce(squares, group=self.norm_group)
        return squares.sqrt()

    @property
    def norm_group(self) -> ProcessGroup | None:
        """Ranks that have other columns of the weight."""
        return None

    def _rows(self, part: AdapterPart) -> Tensor:
        rows = _by_axis(self.weight.detach(), part, 0)
        return rows.narrow(part.axis, part.start, part.length).reshape(-1, self.weight.size(1))

    def combine(self, base: Tensor, outputs: list[Output]) -> Tensor:
        """The layer's output [.., rows], with what its adapters make of their rows of it."""
        first = outputs[0].adapter.part
        if first.whole:
            return self._combined(base, outputs[0].dropped, outputs[0])
        divided = _by_axis(base, first, -1)
        at = divided.dim() - 2 + first.axis
        segments, place = [], 0
        for output in outputs:
            part = output.adapter.part
            if part.start > place:
                segments.append(divided.narrow(at, place, part.start - place))
            own = divided.narrow(at, part.start, part.length)
            dropped = output.dropped
            if dropped is not None:
                dropped = _by_axis(dropped, part, -1).narrow(at, part.start, part.length).flatten(-2)
            segments.append(self._combined(own.flatten(-2), dropped, output).view(own.shape))
            place = part.start + part.length
        if place < first.total:
            segments.append(divided.narrow(at, place, first.total - place))
        return torch.cat(segments, at).flatten(-2)

    def _combined(self, base: Tensor, dropped: Tensor | None, output: Output) -> Tensor:
        adapter, added = output.adapter, output.added
        if adapter.magnitude is None:
            return base + added
        bias = getattr(self, "bias", None)  # no layer has a bias and several parts
        if bias is not None and not bias.numel():  # as Transformer Engine's linears without one have it
            bias = None
        scale = adapter.row_scale(self.norms(adapter))
        if dropped is not None:
            return base + (scale - 1) * (dropped if bias is None else dropped - bias) + scale * added
        if bias is None:
            return scale * (base + added)
        return scale * (base - bias + added) + bias


def _dropped(x: Tensor, mask: Tensor | None) -> Tensor:
    return x if mask is None else x * mask


def _again(layer: Callable[[Tensor], Any], adapter: LowRank, dropped: Tensor, x: Tensor) -> Any:
    """What the layer without adapters makes of the input that dropout left; None where nothing asks for it."""
    return None if adapter.magnitude is None or dropped is x else layer(dropped)


def _by_axis(tensor: Tensor, part: AdapterPart, dim: int) -> Tensor:
    """Rows, which are axis `dim`, as the two axes of which `part` has some of one."""
    return tensor.unflatten(dim, (part.total, -1) if part.axis == 0 else (-1, part.total))


class _Parallel(AdaptedWeight):
    """Of the language model."""

    config: LanguageConfig
    tp_group: ProcessGroup

    @property
    def own_rule(self) -> GradientRule:
        return GradientRule(self.config.fused_weight_gradients)

    def _gathered(self, hidden: Tensor) -> Tensor:
        """A x of this rank's tokens -> of all of them."""
        if self.tp_group.size() == 1:
            return hidden
        if not self.config.sequence_parallel:
            return copy_to_tensor_model_parallel_region(hidden, group=self.tp_group)
        gathered = gather_from_sequence_parallel_region(hidden, group=self.tp_group)
        return self.config.row_parts(gathered.size(0)).in_order(gathered)

    def _reduced(self, hidden: Tensor) -> Tensor:
        """A x of this rank's channels -> of all of them, of this rank's tokens."""
        if self.tp_group.size() == 1:
            return hidden
        if not self.config.sequence_parallel:
            return reduce_from_tensor_model_parallel_region(hidden, group=self.tp_group)
        by_rank = self.config.row_parts(hidden.size(0)).by_rank(hidden)
        return reduce_scatter_to_sequence_parallel_region(by_rank, group=self.tp_group)

    def _mask(self, adapter: LowRank, x: Tensor, *, column: bool) -> Tensor | None:
        """Of dropout, for what this rank has of the row's tokens and channels."""
        size, rank = self.tp_group.size(), self.tp_group.rank()
        tokens, channels = x.size(0), x.size(-1)
        divided = self.config.sequence_parallel and column
        mask = adapter.mask(tokens * size if divided else tokens, channels if column else channels * size, x)
        if mask is None:
            return None
        if divided:
            mask = self.config.row_parts(tokens * size).by_rank(mask)[rank * tokens :][:tokens]
        elif not column:
            mask = mask[:, rank * channels :][:, :channels]
        return mask[:, None]


def adapted_column(linear: Any) -> Any:
    """A column-parallel class of a backend, with adapters."""

    class AdaptedColumn(_Parallel, linear):
        def mark(self, adapter: Any) -> None:
            mark(adapter.lora_A, tensor_model_parallel=False, sequence_parallel=self.config.sequence_parallel)
            for divided in (adapter.lora_B, adapter.magnitude):
                if divided is not None:
                    mark(divided, tensor_model_parallel=True, partition_dim=0, partition_stride=1)

        def forward(self, x: Tensor, *args: Any, **options: Any) -> tuple[Tensor, Tensor | None]:
            layer = super().forward
            base, bias = layer(x, *args, **options)
            parts, rule = self.parts, self.own_rule
            if not parts:
                return base, bias
            pairs = [part() for part in parts]
            inputs = [_dropped(x, self._mask(part, x, column=True)) for part in parts]
            hidden = [multiply(dropped, a, rule) for dropped, (a, _) in zip(inputs, pairs, strict=True)]
            gathered = self._gathered(torch.cat(hidden, -1)).chunk(len(parts), -1)
            added = [multiply(h, b, rule) * self.scale for h, (_, b) in zip(gathered, pairs, strict=True)]
            again = [_again(layer, part, dropped, x) for part, dropped in zip(parts, inputs, strict=True)]
            whole = [each and each[0] for each in again]
            return self.combine(base, list(map(Output, parts, added, whole))), bias

    return AdaptedColumn


def adapted_row(linear: Any) -> Any:
    """A row-parallel class of a backend, with adapters."""

    class AdaptedRow(_Parallel, linear):
        def mark(self, adapter: Any) -> None:
            mark(adapter.lora_A, tensor_model_parallel=True, partition_dim=1, partition_stride=1)
            for whole in (adapter.lora_B, adapter.magnitude):
                if whole is not None:
                    mark(whole, tensor_model_parallel=False, sequence_parallel=self.config.sequence_parallel)

        @property
        def norm_group(self) -> ProcessGroup | None:
            return self.tp_group if self.tp_group.size() > 1 else None

        def forward(self, x: Tensor) -> tuple[Tensor, Tensor | None]:
            base, bias = super().forward(x)
            parts, rule = self.parts, self.own_rule
            if not parts:
                return base, bias
            (part,) = parts
            a, b = part()
            dropped = _dropped(x, self._mask(part, x, column=False))
            hidden = self._reduced(multiply(dropped, a, rule))
            again = _again(super().forward, part, dropped, x)
            return self.combine(base, [Output(part, multiply(hidden, b, rule) * self.scale, again and again[0])]), bias

    return AdaptedRow


class AdaptedVisionLinear(AdaptedWeight, Linear):  # type: ignore[misc]
    """Of the vision tower, whole on each rank; of the patches a rank may have some, as many as each other one. Its
    parameters are marked with the tower's."""

    def mark(self, adapter: Any) -> None:
        """Nothing: see `Qwen3VLModel`."""

    def forward(self, x: Tensor) -> Tensor:
        base = super().forward(x)
        parts, rule = self.parts, GradientRule(self.fused)
        if not parts:
            return base
        (part,) = parts
        ranks, rank = (1, 0) if self.group is None else (self.group.size(), self.group.rank())
        mask = part.mask(x.size(0) * ranks, x.size(-1), x)
        own = mask if mask is None else mask[rank * x.size(0) :][: x.size(0)]
        a, b = part()
        dropped = _dropped(x, own)
        added = multiply(multiply(dropped, a, rule), b, rule) * self.scale
        return self.combine(base, [Output(part, added, _again(super().forward, part, dropped, x))])


class AdaptedRouter(AdaptedWeight, TopKRouter):
    """Adapters in the precision of the router's logits."""

    def mark(self, adapter: Any) -> None:
        config: Any = self.config
        for whole in (adapter.lora_A, adapter.lora_B):
            mark(whole, tensor_model_parallel=False, sequence_parallel=config.sequence_parallel)

    def gating(self, input: Tensor) -> Tensor:  # noqa: A002
        logits: Tensor = super().gating(input)
        for part in self.parts:
            a, b = part()
            hidden = F.linear(input.to(logits.dtype), a.to(logits.dtype))
            logits = logits + F.linear(hidden, b.to(logits.dtype)) * self.scale
        return logits
