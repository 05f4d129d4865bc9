"""The operators on hidden states and the LM head as torch.library sees them: one forward op, its gradient, autograd."""

from collections.abc import Iterator
from typing import Any, cast

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group

from . import library_common as common
from .backends import BACKENDS
from .library_common import Out, Tensors
from .main_grad import returned_gradient
from .products import add_product, product


def _valid_cols(shard: int, vocab_offset: int, vocab_size: int) -> int:
    """How many of a shard's columns belong to the real vocabulary; the rest is padding."""
    return min(max(vocab_size - vocab_offset, 0), shard)


def _chunks(hidden: Tensor, weight: Tensor, max_logits_bytes: int) -> list[slice]:
    """Rows whose logits fit into the budget together; one slice when all do (or there are none)."""
    rows, row_bytes = hidden.shape[0], weight.shape[0] * hidden.element_size()
    if rows * row_bytes <= max_logits_bytes:
        return [slice(0, rows)]
    step = max(1, max_logits_bytes // row_bytes)
    step = -(-rows // -(-rows // step))  # level chunks
    return [slice(start, min(start + step, rows)) for start in range(0, rows, step)]


def _each_chunk(hidden: Tensor, weight: Tensor, chunks: list[slice]) -> Iterator[tuple[slice, Tensor]]:
    """(rows, their logits), through one buffer."""
    buffer = hidden.new_empty(chunks[0].stop, weight.shape[0])
    for rows in chunks:
        yield rows, torch.mm(hidden[rows], weight.t(), out=buffer[: rows.stop - rows.start])


@torch.library.custom_op("editcaption::linear_log_probs", mutates_args=())
def linear_log_probs_op(
    hidden: Tensor,
    weight: Tensor,
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
    max_logits_bytes: int,
    validate_targets: bool,
    group_name: str,
    vocab_offset: int,
    vocab_size: int,
    backend: str,
) -> Tensors:
    """-> the fields of `Out`. Loss and what follows: `common.loss_arguments`; margins [N] are those of each pair.

    group_name: the vocabulary's process group, "" for none; vocab_offset: the first token id of this shard."""
    if validate_targets:
        common.check_values(_name(loss), targets, vocab_size, cu_seqlens)
    module, shard = BACKENDS[backend], weight.shape[0]
    valid = _valid_cols(shard, vocab_offset, vocab_size)
    parts = module.parts(hidden.shape[0], shard)
    chunks = _chunks(hidden, weight, max_logits_bytes)
    stats = []
    for rows, logits in _each_chunk(hidden, weight, chunks):
        stats.append(module.stats(logits, targets[rows], vocab_offset, valid, parts, details))
    gathered = torch.cat(stats, dim=1) if len(stats) > 1 else stats[0]
    if group_name:
        own, group = gathered, _resolve_process_group(cast(Any, group_name))  # a str: operators take no other
        gathered = own.new_empty(dist.get_world_size(group) * parts, *own.shape[1:])
        dist.all_gather_into_tensor(gathered, own.contiguous(), group=group)
    bounds = common.bounds_on(hidden.device, cu_seqlens)
    config = common.loss_config(loss, beta, label_smoothing, margin, nll_weight)
    final = module.finalize(gathered, vocab_size, bounds, config, reference, margins)
    return common.out_of(final, logits if len(chunks) == 1 else logits.new_empty(0, shard))


@linear_log_probs_op.register_fake
def _(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor | None,
    reference: Tensor | None,
    margins: Tensor | None,
    *,
    loss: str,
    details: bool,
    max_logits_bytes: int,
    **others: Any,
) -> Tensors:
    rows = hidden.shape[0] if len(_chunks(hidden, weight, max_logits_bytes)) == 1 else 0
    logits = hidden.new_empty(rows, weight.shape[0])
    return common.fake_out(hidden, cu_seqlens, logits, has_loss=bool(loss), details=details)


@torch.library.custom_op("editcaption::linear_log_probs_gradient", mutates_args={"logits", "main_grad"})
def _gradient(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    log_probs: Tensor,
    lse: Tensor,
    row_grad: Tensor,
    logits: Tensor,
    main_grad: Tensor | None,
    *,
    max_logits_bytes: int,
    vocab_offset: int,
    vocab_size: int,
    need_hidden: bool,
    need_weight: bool,
    backend: str,
) -> tuple[Tensor, Tensor]:
    """-> (gradient by hidden, gradient by weight); without elements where it isn't needed or went to main_grad."""
    valid = _valid_cols(weight.shape[0], vocab_offset, vocab_size)
    chunks = _chunks(hidden, weight, max_logits_bytes)
    grad_hidden = torch.empty_like(hidden) if need_hidden else hidden.new_empty(0)
    own_grad = need_weight and main_grad is None
    # Chunks add up in fp32 and are rounded once.
    sum_dtype = weight.dtype if len(chunks) == 1 else torch.float32
    grad_weight = torch.zeros_like(weight, dtype=sum_dtype) if own_grad and len(chunks) > 1 else weight.new_empty(0)
    each = _each_chunk(hidden, weight, chunks) if len(chunks) > 1 else [(chunks[0], logits)]
    for rows, grad in each:
        pieces = (targets[rows], log_probs[rows], lse[rows], row_grad[rows])
        BACKENDS[backend].gradient(grad, *pieces, vocab_offset, valid, in_place=True)
        if need_hidden:
            product(grad, weight, grad_hidden[rows])
        if own_grad and len(chunks) == 1:
            grad_weight = torch.mm(grad.t(), hidden)
        elif need_weight:
            add_product(main_grad if main_grad is not None else grad_weight, grad.t(), hidden[rows])
    return grad_hidden, grad_weight.to(weight.dtype)


@_gradient.register_fake
def _(
    hidden: Tensor, weight: Tensor, *others: Tensor | None, need_hidden: bool, need_weight: bool, **options: Any
) -> tuple[Tensor, Tensor]:
    grad_hidden = torch.empty_like(hidden) if need_hidden else hidden.new_empty(0)
    own_grad = need_weight and others[-1] is None  # main_grad
    return grad_hidden, torch.empty_like(weight) if own_grad else weight.new_empty(0)


def _name(loss: str) -> str:
    return "linear_preference" if loss else "linear_log_probs"


def _setup(ctx: Any, inputs: tuple[Any, ...], keyword_only_inputs: dict[str, Any], output: tuple[Tensor, ...]) -> None:
    hidden, weight, targets, ctx.cu_seqlens, _, _ = inputs
    ctx.operator = _name(keyword_only_inputs["loss"])
    passed_on = ("max_logits_bytes", "vocab_offset", "vocab_size", "backend")
    ctx.options = {name: keyword_only_inputs[name] for name in passed_on}
    out = Out(*output)
    common.only_loss_differentiable(ctx, out)
    ctx.save_for_backward(hidden, weight, targets, out.log_probs, out.lse, out.row_scale, out.logits)


def _backward(
    ctx: Any, grad_log_probs: Tensor | None, grad_sums: Tensor | None, grad_loss: Tensor | None, *_: object
) -> tuple[Tensor | None, ...]:
    common.refuse_second_derivative(ctx.operator)
    hidden, weight, targets, log_probs, lse, row_scale, logits = common.saved_tensors(ctx, ctx.operator)
    need_hidden, need_weight = ctx.needs_input_grad[:2]
    main_grad = getattr(weight, "main_grad", None) if need_weight else None
    row_grad = common.row_grad(ctx, log_probs, row_scale, grad_log_probs, grad_sums, grad_loss)
    grad_hidden, grad_weight = _gradient(
        hidden, weight, targets, log_probs, lse, row_grad, logits, main_grad,
        need_hidden=need_hidden, need_weight=need_weight, **ctx.options,
    )  # fmt: skip
    by_weight = None if not need_weight else grad_weight if main_grad is None else returned_gradient(weight)
    return grad_hidden if need_hidden else None, by_weight, None, None, None, None


linear_log_probs_op.register_autograd(_backward, setup_context=_setup)
