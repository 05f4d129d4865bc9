"""What the forward operators of torch.library have in common: their output, its fake form, and what goes backward.

Operators are registered so that autograd and torch.compile take each for one op. Nothing here checks shapes
(`operators` has), but the values of targets and cu_seqlens are looked at inside the ops, where torch.compile doesn't
see it. Tensors are positional and everything else is a keyword: torch.library knows only flat lists of plain types.
"""

from typing import Any, NamedTuple

import torch
from torch import Tensor

from . import checks
from .contract import Final
from .preference_losses import PreferenceLossConfig

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


def loss_arguments(config: PreferenceLossConfig | None) -> dict[str, str | float]:
    """A loss as an operator's keywords; the loss "" stands for none."""
    loss = PreferenceLossConfig() if config is None else config
    return {
        "loss": "" if config is None else loss.loss,
        "beta": loss.beta,
        "label_smoothing": loss.label_smoothing,
        "margin": loss.margin,
        "nll_weight": loss.nll_weight,
    }


def loss_config(
    loss: str, beta: float, label_smoothing: float, margin: float, nll_weight: float
) -> PreferenceLossConfig | None:
    """The inverse of `loss_arguments`."""
    return PreferenceLossConfig(loss, beta, label_smoothing, margin, nll_weight) if loss else None


def out_of(final: Final, logits: Tensor) -> Tensors:
    return Out(
        log_probs=final.log_probs,
        sums=final.sums,
        loss=final.loss,
        rewards=final.rewards,
        details=final.details,
        lse=final.lse,
        row_scale=final.row_scale,
        logits=logits,
    )


def fake_out(like: Tensor, cu_seqlens: Tensor | None, logits: Tensor, *, has_loss: bool, details: bool) -> Tensors:
    """Shapes and dtypes of what the op returns for T = len(like) rows."""
    rows = like.shape[0]
    sequences = 0 if cu_seqlens is None else cu_seqlens.shape[0] - 1
    pairs = sequences // 2 if has_loss else 0

    def empty(*shape: int) -> Tensor:
        return like.new_empty(shape, dtype=torch.float32)

    return Out(
        log_probs=empty(rows),
        sums=empty(sequences),
        loss=empty(pairs),
        rewards=empty(pairs, 2),
        details=empty(rows if details else 0, 3),
        lse=empty(rows, 2),
        row_scale=empty(rows if has_loss else 0),
        logits=logits,
    )


def check_values(operator: str, targets: Tensor, vocab_size: int, cu_seqlens: Tensor | None) -> None:
    checks.check_target_values(operator, targets, vocab_size)
    if cu_seqlens is not None:
        checks.check_cu_seqlens_values(operator, cu_seqlens, targets.shape[0], answers=True)


def bounds_on(device: torch.device, cu_seqlens: Tensor | None) -> Tensor | None:
    """int64 [S + 1] on the device.

    The host does not wait, and need not pin them: of up to 64 KiB of pageable memory the driver takes a copy of its own
    before it returns (CUDA Programming Guide, "Asynchronous concurrent execution")."""
    return None if cu_seqlens is None else cu_seqlens.to(device, torch.int64, non_blocking=True).contiguous()


def only_loss_differentiable(ctx: Any, out: Out) -> None:
    """Gradients come by log_probs, sums and loss alone."""
    ctx.mark_non_differentiable(out.rewards, out.details, out.lse, out.row_scale, out.logits)
    ctx.set_materialize_grads(False)  # else autograd fills a gradient of the logits' size with zeros, for nobody


def row_grad(
    ctx: Any,
    log_probs: Tensor,
    row_scale: Tensor,
    by_token: Tensor | None,
    by_sequence: Tensor | None,
    by_pair: Tensor | None,
) -> Tensor:
    """Upstream gradients by token [T], by sequence and by pair, each None where there is none -> one per token [T]."""
    gradient = torch.zeros_like(log_probs) if by_token is None else by_token
    if by_sequence is None and by_pair is None:
        return gradient
    bounds = bounds_on(log_probs.device, ctx.cu_seqlens)
    assert bounds is not None, "what has a gradient by sequence has sequences"
    sequence = torch.arange(bounds.shape[0] - 1, device=bounds.device)
    sequence = sequence.repeat_interleave(bounds.diff(), output_size=log_probs.shape[0])
    if by_sequence is not None:
        gradient = gradient + by_sequence[sequence]
    return gradient if by_pair is None else gradient + row_scale * by_pair[sequence // 2]


def refuse_second_derivative(operator: str) -> None:
    if torch.is_grad_enabled() and not torch.compiler.is_compiling():
        raise RuntimeError(f"{operator}: second derivatives aren't implemented; don't use create_graph=True")


def saved_tensors(ctx: Any, operator: str) -> tuple[Tensor, ...]:
    try:
        saved: tuple[Tensor, ...] = ctx.saved_tensors
        return saved
    except RuntimeError as error:
        raise RuntimeError(
            f"{operator}: backward can run once, because it overwrites the logits with their gradient (or an "
            "input was changed in place since); call the operator again instead of using retain_graph=True"
        ) from error
