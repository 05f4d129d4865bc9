"""The public operators: what they take is checked here, what they do is in `library_logits` and `library_linear`."""

from typing import NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.distributed import ProcessGroup

from . import checks, library_linear, library_logits
from .backends import choose
from .library_common import Out, bounds_on, loss_arguments
from .preference_losses import PreferenceLossConfig

MAX_LOGITS_BYTES = 4 << 30


class TokenDetails(NamedTuple):
    """What a distribution over the vocabulary looks like at each row; none of it is differentiable."""

    entropy: Tensor  # [T] fp32, in nats
    mean_logit: Tensor  # [T] fp32, over the real vocabulary
    argmax: Tensor  # [T] int64: the most probable token, the first one among equals


class PreferenceOutput(NamedTuple):
    """A preference loss and what it was computed from; all fp32."""

    loss: Tensor  # [N], one per pair; differentiable
    log_probs: Tensor  # [T], per token; differentiable
    sequence_log_probs: Tensor  # [2 N], summed over each answer: chosen 0, rejected 0, chosen 1, ...; differentiable
    rewards: Tensor  # [N, 2]: beta * (log-prob - reference) of the chosen and the rejected answer (per token if so)


def log_probs(
    logits: Tensor,
    targets: Tensor,
    *,
    backend: str = "auto",
    details: bool = False,
    inplace_backward: bool = False,
    validate_targets: bool = True,
) -> Tensor | tuple[Tensor, TokenDetails]:
    """log softmax(logits)[t, targets[t]] for each row t, with fp32 statistics.

    logits: [T, V] float32, bfloat16 or float16, any strides. targets: [T] int64 in [0, V).
    Returns [T] float32; with details, also TokenDetails. T may be 0. A logit of -inf has probability 0; a row of
    nothing else gives NaN.

    inplace_backward: the backward pass writes the gradient over the logits, and so needs no memory of its own. Nothing
    else may need their values by then; a second backward raises RuntimeError. Without it logits are never changed.
    validate_targets: look at the values of the targets; on a GPU that waits for the device. False where the caller
    vouches for them.
    ValueError names the argument, what was found and what was expected, and is the same for every backend.
    """
    operator = "log_probs"
    _check_logits(operator, logits, targets, details)
    out = Out(
        *library_logits.log_probs_op(
            logits,
            targets,
            None,
            None,
            None,
            **loss_arguments(None),
            details=details,
            inplace_backward=inplace_backward,
            validate_targets=validate_targets,
            backend=choose(backend, logits.device.type, operator),
        )
    )
    return (out.log_probs, _details(out)) if details else out.log_probs


def linear_log_probs(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    *,
    group: ProcessGroup | None = None,
    backend: str = "auto",
    vocab_size: int | None = None,
    details: bool = False,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
    validate_targets: bool = True,
) -> Tensor | tuple[Tensor, TokenDetails]:
    """log softmax(hidden @ weight.T)[t, targets[t]] for each row t: the LM head and the log-prob in one operator.

    hidden: [T, H], weight: [V, H], both float32, bfloat16 or float16 and of one dtype. targets: [T] int64, global ids.
    Returns [T] float32; with details, also TokenDetails.

    group: the process group that splits the vocabulary. Then `weight` is this rank's shard [V / size, H], rank r
    holding rows [r V / size, (r + 1) V / size), and hidden and targets are the same on each rank. One all-gather of
    [T, 4] floats ([T, 6] with details) is the only communication, and every rank returns the same bits.
    **The gradient by `hidden` is then this rank's part only; the caller must sum it over the group.** In Megatron the
    mapping placed before the operator does (copy_to_tensor_model_parallel_region, or the gather from the
    sequence-parallel region): its backward sums. The gradient by `weight` is complete.

    A weight with a `main_grad` (Megatron's fp32 gradient buffer) gets its gradient added there by the GEMM itself, and
    none in `.grad`; under Megatron's data-parallel wrapper one that says nothing (`main_grad.returned_gradient`).

    vocab_size: the real vocabulary when the last rows of `weight` are padding (Megatron pads V to a multiple);
    rows from vocab_size on take no part and get gradient 0.

    Memory: one buffer of logits [T, V / size] in hidden's dtype, kept for the backward pass, which overwrites it with
    its gradient. When that takes more than max_logits_bytes, rows go in chunks through a buffer of that size, and the
    backward pass computes the logits again (a fourth GEMM). Either way backward runs once, and a second one raises
    RuntimeError. Second derivatives aren't implemented.

    `validate_targets` and ValueError as for `log_probs`.
    """
    operator = "linear_log_probs"
    _check_linear(operator, hidden, weight, targets, group, vocab_size, details)
    out = Out(
        *library_linear.linear_log_probs_op(
            hidden,
            weight,
            targets,
            None,
            None,
            None,
            **loss_arguments(None),
            details=details,
            max_logits_bytes=max_logits_bytes,
            validate_targets=validate_targets,
            **_shard(weight, group, vocab_size),
            backend=choose(backend, hidden.device.type, operator),
        )
    )
    return (out.log_probs, _details(out)) if details else out.log_probs


def preference(
    logits: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference: Tensor | None,
    config: PreferenceLossConfig,
    margin: Tensor | None = None,
    *,
    backend: str = "auto",
    inplace_backward: bool = False,
    validate_targets: bool = True,
) -> PreferenceOutput:
    """The preference loss of N pairs of answers whose tokens lie one after another: chosen 0, rejected 0, chosen 1, ...

    logits [T, V], targets [T] as for `log_probs`. cu_seqlens: [2 N + 1] int32 or int64, where each answer begins and
    the last one ends (0, ..., T); on the CPU or on the logits' device. reference: [2 N] float32, summed log-probs under
    the reference model, in the same order; None for a loss without a reference (simpo). margin: [N] float32 per pair,
    added to config.margin. Token sums, loss, and the coefficient of each row for the backward pass come from one pass.
    """
    operator = "preference"
    _check_logits(operator, logits, targets)
    checks.check_preference(operator, targets, cu_seqlens, reference, config, margin)
    out = library_logits.log_probs_op(
        logits,
        targets,
        cu_seqlens,
        reference,
        margin,
        **loss_arguments(config),
        details=False,
        inplace_backward=inplace_backward,
        validate_targets=validate_targets,
        backend=choose(backend, logits.device.type, operator),
    )
    return _preference_output(Out(*out))


def linear_preference(
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    cu_seqlens: Tensor,
    reference: Tensor | None,
    config: PreferenceLossConfig,
    margin: Tensor | None = None,
    *,
    group: ProcessGroup | None = None,
    backend: str = "auto",
    vocab_size: int | None = None,
    max_logits_bytes: int = MAX_LOGITS_BYTES,
    validate_targets: bool = True,
) -> PreferenceOutput:
    """`preference` from hidden states and the LM head, with all that `linear_log_probs` says of them."""
    operator = "linear_preference"
    _check_linear(operator, hidden, weight, targets, group, vocab_size)
    checks.check_preference(operator, targets, cu_seqlens, reference, config, margin)
    out = library_linear.linear_log_probs_op(
        hidden,
        weight,
        targets,
        cu_seqlens,
        reference,
        margin,
        **loss_arguments(config),
        details=False,
        max_logits_bytes=max_logits_bytes,
        validate_targets=validate_targets,
        **_shard(weight, group, vocab_size),
        backend=choose(backend, hidden.device.type, operator),
    )
    return _preference_output(Out(*out))


def sequence_sums(log_probs: Tensor, cu_seqlens: Tensor) -> Tensor:
    """Sums of log_probs [T] fp32 over the sequences [cu_seqlens[i], cu_seqlens[i + 1]) -> [S] fp32, differentiable.

    cu_seqlens: [S + 1] int32 or int64 from 0 to T; an empty sequence sums to 0. Sums are taken in fp64, in order."""
    operator = "sequence_sums"
    if not isinstance(log_probs, Tensor) or log_probs.dim() != 1 or log_probs.dtype != torch.float32:
        found = f"{log_probs.dtype} {list(log_probs.shape)}" if isinstance(log_probs, Tensor) else repr(log_probs)
        raise ValueError(f"{operator}: `log_probs` must be a float32 tensor [T], found {found}")
    checks.check_cu_seqlens(operator, cu_seqlens, log_probs.device)
    checks.check_cu_seqlens_values(operator, cu_seqlens, log_probs.shape[0])
    bounds = bounds_on(log_probs.device, cu_seqlens)
    return torch.segment_reduce(log_probs.double(), "sum", offsets=bounds).float()


def _check_logits(operator: str, logits: Tensor, targets: Tensor, details: bool = False) -> None:
    checks.check_matrix(operator, "logits", logits, "T, V")
    checks.check_targets(operator, targets, logits.shape[0], "logits", logits.device)
    if logits.shape[1] == 0:
        raise ValueError(f"{operator}: `logits` must have at least one column, found [T, 0]")
    checks.check_columns(operator, logits.shape[1], details)


def _check_linear(
    operator: str,
    hidden: Tensor,
    weight: Tensor,
    targets: Tensor,
    group: ProcessGroup | None,
    vocab_size: int | None,
    details: bool = False,
) -> None:
    checks.check_linear(operator, hidden, weight, targets)
    if group is not None and dist.get_rank(group) < 0:
        raise ValueError(f"{operator}: `group` must contain this process (rank {dist.get_rank()}), and doesn't")
    columns = weight.shape[0] * (1 if group is None else dist.get_world_size(group))
    vocab_size = columns if vocab_size is None else vocab_size
    checks.check_vocab_size(operator, vocab_size, columns)
    checks.check_columns(operator, vocab_size, details)


def _shard(weight: Tensor, group: ProcessGroup | None, vocab_size: int | None) -> dict[str, str | int]:
    """Which part of which vocabulary `weight` is, as keywords of the operators."""
    size, rank = (1, 0) if group is None else (dist.get_world_size(group), dist.get_rank(group))
    rows = weight.shape[0]
    return {
        "group_name": group.group_name if group is not None and size > 1 else "",
        "vocab_offset": rank * rows,
        "vocab_size": rows * size if vocab_size is None else vocab_size,
    }


def _details(out: Out) -> TokenDetails:
    entropy, mean_logit, argmax = out.details.unbind(1)
    return TokenDetails(entropy, mean_logit, argmax.long())


def _preference_output(out: Out) -> PreferenceOutput:
    return PreferenceOutput(out.loss, out.log_probs, out.sums, out.rewards)
