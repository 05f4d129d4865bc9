"""The two operators, registered with torch.library so that autograd and torch.compile see each as one op."""

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed.distributed_c10d import _resolve_process_group

from . import checks
from .backends import MODULES, choose


def log_probs(logits: Tensor, targets: Tensor, *, backend: str = "auto") -> Tensor:
    """log softmax(logits)[t, targets[t]] for each row t, with fp32 statistics.

    logits: [T, V] float32, bfloat16 or float16, any strides; never changed. targets: [T] int64 in [0, V).
    Returns [T] float32. T may be 0. A logit of -inf has probability 0; a row of nothing else gives NaN.
    ValueError names the argument, what was found and what was expected, and is the same for every backend.
    """
    checks.check_matrix("log_probs", "logits", logits, "T, V")
    checks.check_targets("log_probs", targets, logits.shape[0], "logits", logits.device)
    if logits.shape[1] == 0:
        raise ValueError("log_probs: `logits` must have at least one column, found [T, 0]")
    return _log_probs(logits, targets, choose(backend, logits.device.type, "log_probs"))[0]


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    group: ProcessGroup | None = None,
    backend: str = "auto",
    vocab_size: int | None = None,
) -> Tensor:
    """log softmax(hidden @ weight.T)[t, targets[t]] for each row t: the LM head and the log-prob in one operator.

    hidden: [T, H], weight: [V, H], both float32, bfloat16 or float16 and of one dtype. targets: [T] int64, global ids.
    Returns [T] float32.

    group: the process group that splits the vocabulary. Then `weight` is this rank's shard [V / size, H], rank r
    holding rows [r V / size, (r + 1) V / size), and hidden and targets are the same on each rank. One all-gather of
    [T, 4] floats is the only communication, and every rank returns the same bits.
    **The gradient by `hidden` is then this rank's part only; the caller must sum it over the group.** In Megatron the
    mapping placed before the operator does (copy_to_tensor_model_parallel_region, or the gather from the
    sequence-parallel region): its backward sums. The gradient by `weight` is complete.

    vocab_size: the real vocabulary when the last rows of `weight` are padding (Megatron pads V to a multiple);
    rows from vocab_size on take no part and get gradient 0.

    Memory: one buffer of logits [T, V / size] in hidden's dtype, kept for the backward pass, which overwrites it with
    its gradient; so backward runs once, and a second one raises RuntimeError. Second derivatives aren't implemented.
    ValueError as for `log_probs`.
    """
    operator = "linear_log_probs"
    checks.check_linear(operator, hidden, weight, targets)
    size, rank = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
    if rank < 0:
        raise ValueError(f"{operator}: `group` must contain this process (rank {dist.get_rank()}), and doesn't")
    shard = weight.shape[0]
    vocab_size = shard * size if vocab_size is None else vocab_size
    checks.check_vocab_size(operator, vocab_size, shard * size)
    name = group.group_name if size > 1 else ""
    chosen = choose(backend, hidden.device.type, operator)
    return _linear_log_probs(hidden, weight, targets, name, rank * shard, vocab_size, chosen)[0]


def finish(gathered: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """Statistics of all shards [size, T, 4], merged in rank order -> (log-probs [T], (max, log sum) [T, 2]), fp32.

    owner: [T], the shard that holds each target. Order and input are the same on every rank, and so are the bits.
    """
    top = gathered[:, :, 0].amax(0)
    rest = gathered[0, :, 1].double()  # sum of exp(z - max), less 1
    if len(gathered) > 1:
        scale = (gathered[:, :, 0].double() - top).exp()
        rest = torch.full_like(rest, -1.0)
        for shard, part in enumerate(gathered):
            rest = rest + scale[shard] * (1 + part[:, 1].double())
    target = gathered[:, :, 2].gather(0, owner[None])[0]
    log_sum = rest.log1p().float()
    # (z - max) - log_sum, in this order: max + log_sum would round the small part away when logits are large
    return (target - top) - log_sum, torch.stack((top, log_sum), dim=1)


@torch.library.custom_op("editcaption::log_probs", mutates_args=())
def _log_probs(logits: Tensor, targets: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    """-> (log-probs [T], (max, log sum) [T, 2])"""
    vocab = logits.shape[1]
    checks.check_target_values("log_probs", targets, vocab)
    stats = MODULES[backend].stats(logits, targets, 0, vocab)
    return finish(stats[None], torch.zeros_like(targets))


@_log_probs.register_fake
def _(logits: Tensor, targets: Tensor, backend: str) -> tuple[Tensor, Tensor]:
    rows = logits.shape[0]
    return logits.new_empty(rows, dtype=torch.float32), logits.new_empty((rows, 2), dtype=torch.float32)


@torch.library.custom_op("editcaption::log_probs_gradient", mutates_args=())
def _log_probs_gradient(logits: Tensor, targets: Tensor, lse: Tensor, row_grad: Tensor, backend: str) -> Tensor:
    return MODULES[backend].gradient(logits, targets, lse, row_grad, 0, logits.shape[1], in_place=False)


@_log_probs_gradient.register_fake
def _(logits: Tensor, targets: Tensor, lse: Tensor, row_grad: Tensor, backend: str) -> Tensor:
    return torch.empty(logits.shape, dtype=logits.dtype, device=logits.device)


def _log_probs_setup(ctx, inputs, output) -> None:
    logits, targets, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.save_for_backward(logits, targets, output[1])


def _log_probs_backward(ctx, grad: Tensor, _grad_lse):
    _refuse_second_derivative("log_probs")
    logits, targets, lse = ctx.saved_tensors
    return _log_probs_gradient(logits, targets, lse, grad, ctx.backend), None, None


_log_probs.register_autograd(_log_probs_backward, setup_context=_log_probs_setup)


@torch.library.custom_op("editcaption::linear_log_probs", mutates_args=())
def _linear_log_probs(
    hidden: Tensor, weight: Tensor, targets: Tensor, group_name: str, vocab_offset: int, vocab_size: int, backend: str
) -> tuple[Tensor, Tensor, Tensor]:
    """-> (log-probs [T], logits of this shard [T, V / size], (max, log sum) over all shards [T, 2])"""
    checks.check_target_values("linear_log_probs", targets, vocab_size)
    shard = weight.shape[0]
    logits = torch.mm(hidden, weight.t())
    stats = MODULES[backend].stats(logits, targets, vocab_offset, _valid_cols(shard, vocab_offset, vocab_size))
    gathered = stats[None]
    if group_name:
        group = _resolve_process_group(group_name)
        gathered = stats.new_empty(dist.get_world_size(group), *stats.shape)
        dist.all_gather(list(gathered.unbind(0)), stats, group=group)
    log_p, lse = finish(gathered, targets // shard if group_name else torch.zeros_like(targets))
    return log_p, logits, lse


@_linear_log_probs.register_fake
def _(hidden, weight, targets, group_name, vocab_offset, vocab_size, backend):
    rows = hidden.shape[0]
    return (
        hidden.new_empty(rows, dtype=torch.float32),
        hidden.new_empty((rows, weight.shape[0])),
        hidden.new_empty((rows, 2), dtype=torch.float32),
    )


@torch.library.custom_op("editcaption::linear_log_probs_gradient", mutates_args={"logits"})
def _logits_gradient_(
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    row_grad: Tensor,
    vocab_offset: int,
    vocab_size: int,
    backend: str,
) -> None:
    valid_cols = _valid_cols(logits.shape[1], vocab_offset, vocab_size)
    MODULES[backend].gradient(logits, targets, lse, row_grad, vocab_offset, valid_cols, in_place=True)


@_logits_gradient_.register_fake
def _(logits, targets, lse, row_grad, vocab_offset, vocab_size, backend) -> None:
    return None


def _linear_setup(ctx, inputs, output) -> None:
    hidden, weight, targets, _, ctx.vocab_offset, ctx.vocab_size, ctx.backend = inputs
    _, logits, lse = output
    ctx.mark_non_differentiable(logits, lse)
    ctx.save_for_backward(hidden, weight, targets, logits, lse)


def _linear_backward(ctx, grad: Tensor, _grad_logits, _grad_lse):
    _refuse_second_derivative("linear_log_probs")
    try:
        hidden, weight, targets, logits, lse = ctx.saved_tensors
    except RuntimeError as error:
        raise RuntimeError(
            "linear_log_probs: backward can run once, because it overwrites the logits with their gradient (or an "
            "input was changed in place since); call the operator again instead of using retain_graph=True"
        ) from error
    _logits_gradient_(logits, targets, lse, grad, ctx.vocab_offset, ctx.vocab_size, ctx.backend)
    need_hidden, need_weight = ctx.needs_input_grad[:2]
    grad_hidden = torch.mm(logits, weight) if need_hidden else None
    grad_weight = torch.mm(logits.t(), hidden) if need_weight else None
    return grad_hidden, grad_weight, None, None, None, None, None


_linear_log_probs.register_autograd(_linear_backward, setup_context=_linear_setup)


def _valid_cols(shard: int, vocab_offset: int, vocab_size: int) -> int:
    """How many of a shard's columns belong to the real vocabulary; the rest is padding."""
    return min(max(vocab_size - vocab_offset, 0), shard)


def _refuse_second_derivative(operator: str) -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"{operator}: second derivatives aren't implemented; don't use create_graph=True")
