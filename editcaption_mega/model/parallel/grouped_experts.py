"""The experts of this rank: two grouped products, whose weight gradients are added to Megatron's fp32 buffer by the
products that make them."""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from collections.abc import Callable
from contextlib import AbstractContextManager
from functools import partial
from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from megatron.core.transformer.module import MegatronModule
from torch import Tensor

from editcaption_mega.kernels import grouped_weight_gradient, swiglu

from .delayed_gradients import GradientRule, MakesGradientsLater
from .linears import LanguageConfig
from .marks import mark

# A function and its inputs -> its output, and a context whose operation does not save it (`model.recompute`).
Recompute = Callable[..., tuple[Tensor, AbstractContextManager[Any]]]


class ExpertRows(NamedTuple):
    """How many rows each expert of this rank has."""

    counts: Tensor  # int64 [local experts], on the device
    on_host: Callable[[], list[int]] | None  # the same for the backward pass, which may wait for a copy; None: unknown
    experts: slice = slice(None)  # of this rank, those that the rows are for

    @classmethod
    def of(cls, counts: Tensor) -> "ExpertRows":
        return cls(counts, counts.tolist if counts.device.type == "cpu" else None)


class _GroupedProduct(torch.autograd.Function):
    """Rows [T, in] sorted by expert x weight [experts, .., in] -> [T, out]. ends: where each expert's rows end.

    Where the rows are for some of the experts, those of the first piece hand autograd the weight's gradient."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, ends: Tensor, rows: ExpertRows, rule: GradientRule) -> Tensor:
        ctx.rows, ctx.rule = rows, rule
        ctx.weight = weight  # not saved: see `linears`
        ctx.save_for_backward(x if ctx.needs_input_grad[1] else None, ends)
        return F.grouped_mm(x, weight[rows.experts].flatten(1, -2).transpose(1, 2), offs=ends)

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
        (x, ends), weight = ctx.saved_tensors, ctx.weight
        need_x, need_weight = ctx.needs_input_grad[:2]
        grad = grad.contiguous()  # an expanded one is refused by the grouped product
        by_x = F.grouped_mm(grad, weight[ctx.rows.experts].flatten(1, -2), offs=ends) if need_x else None
        by_weight = None
        if need_weight and ctx.rule.delays(weight):
            rows = ctx.rows
            ctx.rule.delay(lambda: partial(_add, weight, grad, x, ends, rows, True))
        elif need_weight:
            by_weight = _add(weight, grad, x, ends, ctx.rows, ctx.rule.fused)
        return by_x, by_weight, None, None, None


def _add(weight: Tensor, grad: Tensor, x: Tensor, ends: Tensor, rows: ExpertRows, fused: bool) -> Tensor | None:
    counts = rows.on_host() if fused and rows.on_host is not None else None
    return grouped_weight_gradient(weight, grad, x, ends, counts, fused=fused, experts=rows.experts)


def grouped_product(x: Tensor, weight: Tensor, ends: Tensor, rows: ExpertRows, rule: GradientRule) -> Tensor:
    """Rows [T, in] sorted by expert x weight [experts, .., in] -> [T, out]."""
    result: Tensor = _GroupedProduct.apply(x, weight, ends, rows, rule)
    return result


class GroupedExperts(MakesGradientsLater, MegatronModule):
    """All experts of this rank in two 3-D products (`torch.nn.functional.grouped_mm`).

    gate_up [experts/ep, 2, ffn/etp, hidden] keeps gate and up on an axis of their own, so that an expert-tensor
    shard is one contiguous box of the global tensor; down [experts/ep, hidden, ffn/etp].
    """

    activation = staticmethod(swiglu)

    def __init__(
        self,
        num_local_experts: int,
        config: LanguageConfig,
        pg_collection=None,
        name=None,
        *,
        recomputed: Recompute | None = None,
        **kwargs,
    ):
        """recomputed: how the activation's output is made again in the backward pass; None where it is held."""
        super().__init__(config=config)
        self.recomputed = recomputed
        assert config.gated_linear_unit and not config.add_bias_linear
        expert_tensor_size = pg_collection.expt_tp.size()
        ffn, hidden = config.moe_ffn_hidden_size // expert_tensor_size, config.hidden_size
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        new = partial(torch.empty, dtype=config.params_dtype, device=device)
        self.gate_up = torch.nn.Parameter(new(num_local_experts, 2, ffn, hidden))
        self.down = torch.nn.Parameter(new(num_local_experts, hidden, ffn))
        # Sharded over ranks that hold other data: their gradients are not summed over the whole data-parallel group.
        # Megatron sets this only for EP > 1; with expert TP != TP it would average over ranks with other shards.
        sharded = pg_collection.ep.size() > 1 or expert_tensor_size != config.tensor_model_parallel_size
        for weight in (self.gate_up, self.down):
            # The last three for the gradient norm: shards count once each, not once per expert-tensor group.
            mark(weight, allreduce=not sharded, tensor_model_parallel=True, partition_dim=2, partition_stride=1)
        if config.delayed_gradients is not None:
            self.make_later(self.gate_up, self.down)

    def forward(self, x: Tensor, rows: ExpertRows, probs: Tensor) -> tuple[Tensor, None]:
        """x [tokens, hidden] sorted by expert, how many each expert has, probs [tokens] -> [tokens, hidden]."""
        ends = rows.counts.cumsum(0).to(torch.int32)
        gate_up = self.product(x, self.gate_up, ends, rows)
        if self.recomputed is not None and torch.is_grad_enabled():
            h, forgotten = self.recomputed(self.activation, gate_up, probs)
            with forgotten:
                return self.product(h, self.down, ends, rows), None
        return self.product(self.activation(gate_up, probs), self.down, ends, rows), None

    def product(self, x: Tensor, weight: Tensor, ends: Tensor, rows: ExpertRows) -> Tensor:
        """Rows sorted by expert x one of the two weights. ends: where each expert's rows end."""
        # Of both weights and all pieces, the first product of the first experts is the last that is made later.
        last = weight is self.gate_up and not rows.experts.start
        config = self.config
        added = self.gradients_added if last else None
        return grouped_product(
            x, weight, ends, rows, GradientRule(config.fused_weight_gradients, config.delayed_gradients, added)
        )

    def backward_dw(self) -> None:
        """Of Megatron's own way to delay weight gradients, which is not used."""
