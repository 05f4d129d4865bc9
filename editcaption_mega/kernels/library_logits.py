"""The operators on logits as torch.library sees them: one forward op, its gradient in place and not, and autograd."""

from typing import Any

import torch
from torch import Tensor

from . import library_common as common
from .backends import BACKENDS
from .library_common import Out, Tensors


@torch.library.custom_op("editcaption::log_probs", mutates_args=())
def log_probs_op(
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor | None,
    reference: Tensor | None,
    margins: Tensor | None,
    *,
    loss: str,
    beta: float,
    label_smoothing: float,
    margin: float,
    nll_weight: float,
    details: bool,
    inplace_backward: bool,
    validate_targets: bool,
    backend: str,
) -> Tensors:
    """-> the fields of `Out`. Loss and what follows: `common.loss_arguments`; margins [N] are those of each pair."""
    rows, vocab = logits.shape
    if validate_targets:
        common.check_values(_name(loss), targets, vocab, cu_seqlens)
    module = BACKENDS[backend]
    stats = module.stats(logits, targets, 0, vocab, module.parts(rows, vocab), details)
    bounds = common.bounds_on(logits.device, cu_seqlens)
    config = common.loss_config(loss, beta, label_smoothing, margin, nll_weight)
    final = module.finalize(stats, vocab, bounds, config, reference, margins)
    return common.out_of(final, logits.new_empty(0, 0))


@log_probs_op.register_fake
def _(
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor | None,
    reference: Tensor | None,
    margins: Tensor | None,
    *,
    loss: str,
    details: bool,
    **others: Any,
) -> Tensors:
    return common.fake_out(logits, cu_seqlens, logits.new_empty(0, 0), has_loss=bool(loss), details=details)


@torch.library.custom_op("editcaption::log_probs_gradient", mutates_args=())
def _gradient(
    logits: Tensor, targets: Tensor, log_probs: Tensor, lse: Tensor, row_grad: Tensor, *, backend: str
) -> Tensor:
    vocab = logits.shape[1]
    return BACKENDS[backend].gradient(logits, targets, log_probs, lse, row_grad, 0, vocab, in_place=False)


@_gradient.register_fake
def _(logits: Tensor, *others: Tensor, backend: str) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


@torch.library.custom_op("editcaption::log_probs_gradient_", mutates_args={"logits"})
def _gradient_in_place(
    logits: Tensor, targets: Tensor, log_probs: Tensor, lse: Tensor, row_grad: Tensor, *, backend: str
) -> None:
    vocab = logits.shape[1]
    BACKENDS[backend].gradient(logits, targets, log_probs, lse, row_grad, 0, vocab, in_place=True)


@_gradient_in_place.register_fake
def _(logits: Tensor, *others: Tensor, backend: str) -> None:
    return None


def _name(loss: str) -> str:
    return "preference" if loss else "log_probs"


def _setup(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, ...]) -> None:
    logits, targets, ctx.cu_seqlens, _, _ = inputs
    ctx.operator, ctx.backend = _name(keyword_only_inputs["loss"]), keyword_only_inputs["backend"]
    ctx.in_place = keyword_only_inputs["inplace_backward"]
    out = Out(*output)
    common.only_loss_differentiable(ctx, out)
    ctx.save_for_backward(logits, targets, out.log_probs, out.lse, out.row_scale)


def _backward(
    ctx: Any, grad_log_probs: Tensor | None, grad_sums: Tensor | None, grad_loss: Tensor | None, *_: object
) -> tuple[Tensor | None, ...]:
    common.refuse_second_derivative(ctx.operator)
    logits, targets, log_probs, lse, row_scale = common.saved_tensors(ctx, ctx.operator)
    row_grad = common.row_grad(ctx, log_probs, row_scale, grad_log_probs, grad_sums, grad_loss)
    if ctx.in_place:
        _gradient_in_place(logits, targets, log_probs, lse, row_grad, backend=ctx.backend)
        grad = logits.detach()
    else:
        grad = _gradient(logits, targets, log_probs, lse, row_grad, backend=ctx.backend)
    return grad, None, None, None, None


log_probs_op.register_autograd(_backward, setup_context=_setup)
