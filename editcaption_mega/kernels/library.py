"""The operators as torch.library sees them: two forward ops, two backward ops, their fake forms and autograd.

Registered so that autograd and torch.compile take each for one op. Nothing here checks shapes (`operators` has), but
the values of targets and cu_seqlens are looked at inside the ops, where torch.compile doesn't see it.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed.distributed_c10d import _resolve_process_group

from . import checks
from .backends import BACKENDS
from .contract import Final
from .preference import LOSSES, Preference

Bounds = Tensor | None
Tensors = tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]


class Out(NamedTuple):
    """What the forward ops return. Differentiable: log_probs, sums, loss."""

    log_probs: Tensor  # [T]
    sums: Tensor  # [S]
    loss: Tensor  # [N]
    rewards: Tensor  # [N, 2]
    details: Tensor  # [T, 3]
    lse: Tensor  # [T, 2]
    row_scale: Tensor  # [T]
    logits: Tensor  # [T, V / size] for the backward pass of the linear form; no rows when they are computed again


def encode(how: Preference) -> list[float]:
    """A Preference as an operator's argument; [] stands for none."""
    return [list(LOSSES).index(how.loss), how.beta, how.label_smoothing, how.margin, how.nll_weight]


def _decode(how: Sequence[float]) -> Preference | None:
    return Preference(list(LOSSES)[int(how[0])], *how[1:]) if how else None


def from_logits(*arguments) -> Out:
    return Out(*_from_logits(*arguments))


def linear(*arguments) -> Out:
    return Out(*_linear(*arguments))


def _out(final: Final, logits: Tensor) -> Tensors:
    return Out(
        final.log_probs,
        final.sums,
        final.loss,
        final.rewards,
        final.details,
        final.lse,
        final.row_scale,
        logits,
    )


def _fake_out(like: Tensor, cu_seqlens: Bounds, how: Sequence[float], details: bool, logits: Tensor) -> Tensors:
    rows = like.shape[0]
    sequences = 0 if cu_seqlens is None else cu_seqlens.shape[0] - 1
    pairs = sequences // 2 if how else 0

    def room(*shape: int) -> Tensor:
        return like.new_empty(shape, dtype=torch.float32)

    return Out(
        room(rows),
        room(sequences),
        room(pairs),
        room(pairs, 2),
        room(rows if details else 0, 3),
        room(rows, 2),
        room(rows if how else 0),
        logits,
    )


def _check_values(operator: str, targets: Tensor, vocab_size: int, cu_seqlens: Bounds) -> None:
    checks.check_target_values(operator, targets, vocab_size)
    if cu_seqlens is not None:
        checks.check_cu_seqlens_values(operator, cu_seqlens, targets.shape[0], answers=True)


def _bounds_on(device: torch.device, cu_seqlens: Bounds) -> Bounds:
    return None if cu_seqlens is None else cu_seqlens.to(device, torch.int64, non_blocking=True).contiguous()


def _row_grad(ctx, log_probs: Tensor, row_scale: Tensor, by_token, by_sequence, by_pair) -> Tensor:
    """Upstream gradients by token [T], by sequence and by pair, each None where there is none -> one per token [T]."""
    row_grad = torch.zeros_like(log_probs) if by_token is None else by_token
    if by_sequence is None and by_pair is None:
        return row_grad
    bounds = _bounds_on(log_probs.device, ctx.cu_seqlens)
    sequence = torch.arange(bounds.shape[0] - 1, device=bounds.device)
    sequence = sequence.repeat_interleave(bounds.diff(), output_size=log_probs.shape[0])
    if by_sequence is not None:
        row_grad = row_grad + by_sequence[sequence]
    return row_grad if by_pair is None else row_grad + row_scale * by_pair[sequence // 2]


def _refuse_second_derivative(operator: str) -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"{operator}: second derivatives aren't implemented; don't use create_graph=True")


def _saved_tensors(ctx, operator: str) -> tuple[Tensor, ...]:
    try:
        return ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(
            f"{operator}: backward can run once, because it overwrites the logits with their gradient (or an "
            "input was changed in place since); call the operator again instead of using retain_graph=True"
        ) from error


# From logits


@torch.library.custom_op("editcaption::log_probs", mutates_args=())
def _from_logits(
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor | None,
    reference: Tensor | None,
    margin: Tensor | None,
    how: Sequence[float],
    details: bool,
    inplace_backward: bool,
    checked: bool,
    backend: str,
) -> Tensors:
    rows, vocab = logits.shape
    if not checked:
        _check_values("preference" if how else "log_probs", targets, vocab, cu_seqlens)
    module = BACKENDS[backend]
    stats = module.stats(logits, targets, 0, vocab, module.parts(rows, vocab), details)
    bounds = _bounds_on(logits.device, cu_seqlens)
    return _out(module.finalize(stats, vocab, bounds, _decode(how), reference, margin), logits.new_empty(0, 0))


@_from_logits.register_fake
def _(logits, targets, cu_seqlens, reference, margin, how, details, inplace_backward, checked, backend):
    return _fake_out(logits, cu_seqlens, how, details, logits.new_empty(0, 0))


@torch.library.custom_op("editcaption::log_probs_gradient", mutates_args=())
def _gradient(
    logits: Tensor, targets: Tensor, log_probs: Tensor, lse: Tensor, row_grad: Tensor, backend: str
) -> Tensor:
    vocab = logits.shape[1]
    return BACKENDS[backend].gradient(logits, targets, log_probs, lse, row_grad, 0, vocab, in_place=False)


@_gradient.register_fake
def _(logits, targets, log_probs, lse, row_grad, backend):
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


@torch.library.custom_op("editcaption::log_probs_gradient_", mutates_args={"logits"})
def _gradient_(logits: Tensor, targets: Tensor, log_probs: Tensor, lse: Tensor, row_grad: Tensor, backend: str) -> None:
    vocab = logits.shape[1]
    BACKENDS[backend].gradient(logits, targets, log_probs, lse, row_grad, 0, vocab, in_place=True)


@_gradient_.register_fake
def _(logits, targets, log_probs, lse, row_grad, backend):
    return None


def _from_logits_setup(ctx, inputs, output) -> None:
    logits, targets, ctx.cu_seqlens, _, _, ctx.how, _, ctx.in_place, _, ctx.backend = inputs
    out = Out(*output)
    ctx.mark_non_differentiable(out.rewards, out.details, out.lse, out.row_scale, out.logits)
    ctx.set_materialize_grads(False)  # else autograd fills a gradient of the logits' size with zeros, for nobody
    ctx.save_for_backward(logits, targets, out.log_probs, out.lse, out.row_scale)


def _from_logits_backward(ctx, grad_log_probs, grad_sums, grad_loss, *_):
    operator = "preference" if ctx.how else "log_probs"
    _refuse_second_derivative(operator)
    logits, targets, log_probs, lse, row_scale = _saved_tensors(ctx, operator)
    row_grad = _row_grad(ctx, log_probs, row_scale, grad_log_probs, grad_sums, grad_loss)
    if ctx.in_place:
        _gradient_(logits, targets, log_probs, lse, row_grad, ctx.backend)
        grad = logits.detach()
    else:
        grad = _gradient(logits, targets, log_probs, lse, row_grad, ctx.backend)
    return grad, *(None,) * 9


_from_logits.register_autograd(_from_logits_backward, setup_context=_from_logits_setup)


# From hidden states


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
def _linear(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor | None,
    reference: Tensor | None,
    margin: Tensor | None,
    how: Sequence[float],
    details: bool,
    max_logits_bytes: int,
    checked: bool,
    group_name: str,
    vocab_offset: int,
    vocab_size: int,
    backend: str,
) -> Tensors:
    if not checked:
        operator = "linear_preference" if how else "linear_log_probs"
        _check_values(operator, targets, vocab_size, cu_seqlens)
    module, shard = BACKENDS[backend], weight.shape[0]
    valid = _valid_cols(shard, vocab_offset, vocab_size)
    parts = module.parts(hidden.shape[0], shard)
    chunks = _chunks(hidden, weight, max_logits_bytes)
    stats = []
    for rows, logits in _each_chunk(hidden, weight, chunks):
        stats.append(module.stats(logits, targets[rows], vocab_offset, valid, parts, details))
    gathered = torch.cat(stats, dim=1) if len(stats) > 1 else stats[0]
    if group_name:
        mine, group = gathered, _resolve_process_group(group_name)
        gathered = mine.new_empty(dist.get_world_size(group) * parts, *mine.shape[1:])
        dist.all_gather(list(gathered.split(parts)), mine, group=group)
    bounds = _bounds_on(hidden.device, cu_seqlens)
    final = module.finalize(gathered, vocab_size, bounds, _decode(how), reference, margin)
    return _out(final, logits if len(chunks) == 1 else logits.new_empty(0, shard))


@_linear.register_fake
def _(hidden, weight, targets, cu_seqlens, reference, margin, how, details, max_logits_bytes, *_):
    kept = hidden.shape[0] if len(_chunks(hidden, weight, max_logits_bytes)) == 1 else 0
    return _fake_out(hidden, cu_seqlens, how, details, hidden.new_empty(kept, weight.shape[0]))


@torch.library.custom_op("editcaption::linear_log_probs_gradient", mutates_args={"logits", "main_grad"})
def _linear_gradient(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    log_probs: Tensor,
    lse: Tensor,
    row_grad: Tensor,
    logits: Tensor,
    main_grad: Tensor | None,
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
            _product(grad, weight, grad_hidden[rows])
        if own_grad and len(chunks) == 1:
            grad_weight = torch.mm(grad.t(), hidden)
        elif need_weight:
            _add_product(main_grad if main_grad is not None else grad_weight, grad.t(), hidden[rows])
    return grad_hidden, grad_weight.to(weight.dtype)


def _product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out [M, N] = a [M, K] @ b [K, N].

    The CPU's fp32 GEMM adds up all K products of a short matrix in one chain: over a whole vocabulary that costs two
    digits. Blocks of K, each added up on its own, cost nothing and keep them."""
    if a.is_cuda or a.dtype != torch.float32:
        torch.mm(a, b, out=out)
        return
    out.zero_()
    for start in range(0, a.shape[1], 1024):
        out += a[:, start : start + 1024] @ b[start : start + 1024]


def _add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total [M, N] += a [M, K] @ b [K, N], in total's dtype."""
    if total.dtype == a.dtype:
        total.addmm_(a, b)
    elif total.is_cuda and total.dtype == torch.float32:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:  # the CPU has no GEMM of mixed precision: convert a block at a time
        b = b.to(total.dtype)
        for start in range(0, len(total), 1024):
            total[start : start + 1024].addmm_(a[start : start + 1024].to(total.dtype), b)


@_linear_gradient.register_fake
def _(hidden, weight, targets, log_probs, lse, row_grad, logits, main_grad, max_logits_bytes, *flags):
    _, _, need_hidden, need_weight, _ = flags
    grad_hidden = torch.empty_like(hidden) if need_hidden else hidden.new_empty(0)
    own_grad = need_weight and main_grad is None
    return grad_hidden, torch.empty_like(weight) if own_grad else weight.new_empty(0)


def _linear_setup(ctx, inputs, output) -> None:
    hidden, weight, targets, ctx.cu_seqlens, _, _, ctx.how, _, ctx.max_logits_bytes, *rest = inputs
    _, _, ctx.vocab_offset, ctx.vocab_size, ctx.backend = rest
    out = Out(*output)
    ctx.mark_non_differentiable(out.rewards, out.details, out.lse, out.row_scale, out.logits)
    ctx.set_materialize_grads(False)  # else autograd fills a gradient of the logits' size with zeros, for nobody
    ctx.save_for_backward(hidden, weight, targets, out.log_probs, out.lse, out.row_scale, out.logits)


def _linear_backward(ctx, grad_log_probs, grad_sums, grad_loss, *_):
    operator = "linear_preference" if ctx.how else "linear_log_probs"
    _refuse_second_derivative(operator)
    hidden, weight, targets, log_probs, lse, row_scale, logits = _saved_tensors(ctx, operator)
    need_hidden, need_weight = ctx.needs_input_grad[:2]
    main_grad = getattr(weight, "main_grad", None) if need_weight else None
    grad_hidden, grad_weight = _linear_gradient(
        hidden,
        weight,
        targets,
        log_probs,
        lse,
        _row_grad(ctx, log_probs, row_scale, grad_log_probs, grad_sums, grad_loss),
        logits,
        main_grad,
        ctx.max_logits_bytes,
        ctx.vocab_offset,
        ctx.vocab_size,
        need_hidden,
        need_weight,
        ctx.backend,
    )
    own_grad = need_weight and main_grad is None
    return grad_hidden if need_hidden else None, grad_weight if own_grad else None, *(None,) * 12


_linear.register_autograd(_linear_backward, setup_context=_linear_setup)
