"""Linear layers whose weight gradients are added to Megatron's fp32 buffer by the products that make them, without Apex
or Transformer Engine, and whose tensor-parallel communication runs beside their products.

A column-parallel layer gathers the tokens of all ranks before its product, a row-parallel one reduces and scatters
behind its own, and each does the other's in the backward pass. That goes piece by piece (`row_parts`): while one piece
is computed, the next ones travel. In the backward pass of a column-parallel layer its input is gathered again beside
the product by the weight, and its gradient scattered beside the product by the input. Both products are then of all
tokens, which are faster than pieces: they are equally long, and so is what travels, so where a product does not cover
that, pieces would not either. In a pipeline the product that makes the weight's gradient may wait
(`delayed_gradients`). The products keep the weight themselves: where hooks pack what autograd saves (`recompute`), it
hands back another tensor, without the weight's buffer and the like.

Relied upon of Megatron, and held by tests/model/parallel/test_linears.py: `_forward_impl` makes the product of both of
its linears, and a row-parallel one reduces its result in `forward`.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any, Literal

import torch
import torch.distributed as dist
import torch.nn.functional as F
from megatron.core.parallel_state import get_global_memory_buffer
from megatron.core.tensor_parallel.layers import ColumnParallelLinear, RowParallelLinear
from megatron.core.transformer.transformer_config import TransformerConfig
from torch import Tensor, nn
from torch.distributed import ProcessGroup

from editcaption_mega.kernels import weight_gradient

from .adapter_plan import AdapterPlan
from .delayed_gradients import DelayedGradients, Finish, GradientRule, MakesGradientsLater
from .row_parts import RowParts


@dataclass
class LanguageConfig(TransformerConfig):
    """Megatron's config, with what our own layers are told."""

    fused_weight_gradients: bool = True  # setting model.fused_weight_gradients
    sequence_pieces: int | None = 1  # setting parallel.sequence_pieces; 1 where layers are not ours
    expert_pieces: int | None = None  # setting parallel.expert_pieces
    delayed_gradients: DelayedGradients | None = (
        None  # of a pipeline stage, see setting parallel.delayed_weight_gradients
    )
    adapters: AdapterPlan | None = None  # which layers have adapters; None where weights are trained

    def row_parts(self, length: int) -> RowParts:
        """How a row of so many tokens is divided over tensor-parallel ranks."""
        return RowParts.of(length, self.tensor_model_parallel_size, self.sequence_pieces)

    def expert_parts(self, num_local_experts: int, expert_parallel: int, expert_tensor: int) -> int:
        """In how many pieces rows travel to experts: two, or as many as wanted, where that many divide those of a rank.

        One where they do not travel, where experts are divided over ranks, and where their weights' gradients are made
        apart."""
        if expert_parallel == 1 or expert_tensor > 1 or not self.fused_weight_gradients:
            return 1
        wanted = 2 if self.expert_pieces is None else self.expert_pieces
        return max(n for n in range(1, wanted + 1) if num_local_experts % n == 0)


class _Product(torch.autograd.Function):
    """x [.., in] @ weight.T + bias -> [.., out]. group: ranks whose gradients of x are added up."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, group: ProcessGroup | None, rule: GradientRule
    ) -> Tensor:
        ctx.group, ctx.rule = group, rule
        ctx.weight = weight
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None)
        return F.linear(x, weight, bias)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,), weight = ctx.saved_tensors, ctx.weight
        need_x, need_weight, need_bias = ctx.needs_input_grad[:3]
        by_x = grad.matmul(weight) if need_x else None
        reduced = None
        if by_x is not None and ctx.group is not None:
            reduced = dist.all_reduce(by_x, group=ctx.group, async_op=True)
        rows, by_weight = grad.flatten(0, -2), None
        if need_weight and ctx.rule.delays(weight):
            ctx.rule.delay(lambda: _adding(weight, rows, x))
        elif need_weight:
            by_weight = weight_gradient(weight, rows, x.flatten(0, -2), fused=ctx.rule.fused)
        by_bias = rows.sum(0) if need_bias else None
        if reduced is not None:
            reduced.wait()
        return by_x, by_weight, by_bias, None, None


def multiply(x: Tensor, weight: Tensor, rule: GradientRule) -> Tensor:
    """x [.., in] @ weight.T -> [.., out], of a weight that is whole on this rank or needs no communication."""
    result: Tensor = _Product.apply(x, weight, None, None, rule)
    return result


class _ColumnProduct(torch.autograd.Function):
    """This rank's tokens [s / ranks, 1, in] x weight [out, in] -> all tokens [s, 1, out]."""

    @staticmethod
    def forward(
        ctx: Any, own: Tensor, weight: Tensor, group: ProcessGroup, parts: RowParts, rule: GradientRule
    ) -> Tensor:
        ctx.group, ctx.parts, ctx.rule = group, parts, rule
        ctx.weight = weight
        ctx.save_for_backward(own if ctx.needs_input_grad[1] else None)
        whole, arrivals = _gather(own, group, parts)
        out = own.new_empty(parts.length, 1, weight.size(0))
        for (_, piece), arrived in zip(_pieces(parts), arrivals, strict=True):
            arrived.wait()
            torch.mm(whole[piece, 0], weight.t(), out=out[piece, 0])
        return out

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (own,), weight = ctx.saved_tensors, ctx.weight
        need_x, need_weight = ctx.needs_input_grad[:2]
        if need_weight and ctx.rule.delays(weight):
            group, parts, need_weight = ctx.group, ctx.parts, False
            ctx.rule.delay(lambda: _adding(weight, grad, own, gathered="x", group=group, parts=parts))
        if need_weight:
            whole, arrivals = _gather(own, ctx.group, ctx.parts)
        by_own = None
        if need_x:
            by_all = grad @ weight if need_weight else None  # the weight's product covers how it travels
            by_own, finish = _scatter(
                lambda piece: grad[piece] @ weight if by_all is None else by_all[piece],
                grad, weight.size(1), ctx.group, ctx.parts,
            )  # fmt: skip
        by_weight = None
        if need_weight:
            for arrived in arrivals:
                arrived.wait()
            by_weight = weight_gradient(weight, grad.flatten(0, 1), whole.flatten(0, 1), fused=ctx.rule.fused)
        if need_x:
            finish()
        return by_own, by_weight, None, None, None


class _RowProduct(torch.autograd.Function):
    """All tokens [s, 1, in / ranks] x weight [out, in / ranks], summed over ranks -> its own [s / ranks, 1, out]."""

    @staticmethod
    def forward(
        ctx: Any, x: Tensor, weight: Tensor, group: ProcessGroup, parts: RowParts, rule: GradientRule
    ) -> Tensor:
        ctx.group, ctx.parts, ctx.rule = group, parts, rule
        ctx.weight = weight
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None)
        own, finish = _scatter(lambda piece: x[piece] @ weight.t(), x, weight.size(0), group, parts)
        finish()
        return own

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x,), weight = ctx.saved_tensors, ctx.weight
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad = grad.contiguous()
        if need_weight and ctx.rule.delays(weight):
            group, parts, need_weight = ctx.group, ctx.parts, False
            ctx.rule.delay(lambda: _adding(weight, grad, x, gathered="grad", group=group, parts=parts))
        whole, arrivals = _gather(grad, ctx.group, ctx.parts)
        by_x = grad.new_empty(ctx.parts.length, 1, weight.size(1)) if need_x else None
        for (_, piece), arrived in zip(_pieces(ctx.parts), arrivals, strict=True):
            arrived.wait()
            if by_x is not None:
                torch.mm(whole[piece, 0], weight, out=by_x[piece, 0])
        by_weight = None
        if need_weight:
            by_weight = weight_gradient(weight, whole.flatten(0, 1), x.flatten(0, 1), fused=ctx.rule.fused)
        return by_x, by_weight, None, None, None


def _pieces(parts: RowParts) -> Iterator[tuple[slice, slice]]:
    """Of each piece: where this rank has it, and where it is in the row."""
    own, whole = parts.part, parts.part * parts.ranks
    for i in range(parts.pieces):
        yield slice(i * own, (i + 1) * own), slice(i * whole, (i + 1) * whole)


def _adding(
    weight: Tensor,
    grad: Tensor,
    x: Tensor,
    *,
    gathered: Literal["", "x", "grad"] = "",
    group: ProcessGroup | None = None,
    parts: RowParts | None = None,
) -> Finish:
    """The product that adds a weight's gradient, once what of its operands this rank has a part of is gathered."""
    arrivals: list[Any] = []
    if gathered:
        assert group is not None and parts is not None
        own = x if gathered == "x" else grad
        whole, arrivals = _gather(own, group, parts, into=own.new_empty(parts.length, *own.shape[1:]))
        x, grad = (whole, grad) if gathered == "x" else (x, whole)

    def finish() -> None:
        for arrived in arrivals:
            arrived.wait()
        weight_gradient(weight, grad.flatten(0, -2), x.flatten(0, -2))

    return finish


def _gather(own: Tensor, group: ProcessGroup, parts: RowParts, into: Tensor | None = None) -> tuple[Tensor, list[Any]]:
    """Begin to gather the tokens of all ranks -> them [s, 1, h], by default in a buffer that the next call takes, and
    what to wait for before each piece is read."""
    whole = into
    if whole is None:
        whole = get_global_memory_buffer().get_tensor([parts.length, *own.shape[1:]], own.dtype, "mpu")
    works = [
        dist.all_gather_into_tensor(whole[piece], own[mine], group=group, async_op=True)
        for mine, piece in _pieces(parts)
    ]
    return whole, works


def _scatter(
    product: Callable[[slice], Tensor], like: Tensor, columns: int, group: ProcessGroup, parts: RowParts
) -> tuple[Tensor, Callable[[], None]]:
    """Begin to add up the products of all ranks piece by piece -> this rank's tokens [s / ranks, 1, columns], and what
    waits for them."""
    own = like.new_empty(parts.length // parts.ranks, 1, columns)
    works, sent = [], []  # what is sent lives until it has arrived
    for mine, piece in _pieces(parts):
        sent.append(product(piece))
        works.append(dist.reduce_scatter_tensor(own[mine], sent[-1], group=group, async_op=True))

    def finish() -> None:
        for work in works:
            work.wait()
        sent.clear()

    return own, finish


class Linear(nn.Linear):
    """Of the vision tower, whole on each rank. fused: add the weight's gradient in the product. group: ranks that share
    the patches."""

    fused = True
    group: ProcessGroup | None = None

    def forward(self, x: Tensor) -> Tensor:
        """x [.., in] -> [.., out]."""
        result: Tensor = _Product.apply(x, self.weight, self.bias, None, GradientRule(self.fused))
        return result


class _ParallelLinear(MakesGradientsLater):
    """What both have: how the gradient of their weight is made."""

    config: LanguageConfig
    weight: nn.Parameter

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        if self.config.delayed_gradients is not None:
            self.make_later(self.weight)

    @property
    def rule(self) -> GradientRule:
        return GradientRule(self.config.fused_weight_gradients, self.config.delayed_gradients, self.gradients_added)


class ColumnLinear(_ParallelLinear, ColumnParallelLinear):
    """The output's channels are divided over tensor-parallel ranks."""

    def _forward_impl(self, input: Tensor, weight: Tensor, **options: Any) -> Tensor:  # noqa: A002
        return _product(self, input, weight, **options)


class RowLinear(_ParallelLinear, RowParallelLinear):
    """The input's channels are divided over tensor-parallel ranks."""

    def _forward_impl(self, input: Tensor, weight: Tensor, **options: Any) -> Tensor:  # noqa: A002
        return _product(self, input, weight, **options)

    def forward(self, input_: Tensor) -> tuple[Tensor, Tensor | None]:
        """[s, 1, in / ranks] -> [s / ranks, 1, out] under sequence parallelism, else [s, 1, out]; and no bias."""
        if not self.sequence_parallel:
            without: tuple[Tensor, Tensor | None] = super().forward(input_)
            return without
        assert self.input_is_parallel and self.bias is None and not self.explicit_expert_comm
        parts = self.config.row_parts(input_.size(0))
        return _RowProduct.apply(input_, self.weight, self.tp_group, parts, self.rule), None


def _product(
    layer: ColumnLinear | RowLinear,
    x: Tensor,
    weight: Tensor,
    *,
    bias: Tensor | None,
    allreduce_dgrad: bool,
    sequence_parallel: bool,
    tp_group: ProcessGroup | None,
    **others: Any,
) -> Tensor:
    """What Megatron's linears ask of their `_forward_impl`."""
    if sequence_parallel:
        assert tp_group is not None and bias is None
        parts = layer.config.row_parts(x.size(0) * tp_group.size())
        gathered: Tensor = _ColumnProduct.apply(x, weight, tp_group, parts, layer.rule)
        return gathered
    result: Tensor = _Product.apply(x, weight, bias, tp_group if allreduce_dgrad else None, layer.rule)
    return result
