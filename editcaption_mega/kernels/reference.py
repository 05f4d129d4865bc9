"""The `torch` backend: the same two functions in plain PyTorch, on any device; the others are read against it."""

import torch
from torch import Tensor


def _targets_here(logits: Tensor, targets: Tensor, vocab_offset: int, valid_cols: int) -> tuple[Tensor, Tensor]:
    """(column of each target, clamped into the shard [T]; whether this shard holds it [T])."""
    column = targets - vocab_offset
    here = (column >= 0) & (column < valid_cols)
    return column.clamp(0, max(logits.shape[1] - 1, 0)), here


def stats(logits: Tensor, targets: Tensor, vocab_offset: int, valid_cols: int, entropy: bool = False) -> Tensor:
    """Softmax statistics [T, 4] fp32 (see `backends`)."""
    out = torch.zeros(logits.shape[0], 4, dtype=torch.float32, device=logits.device)
    if valid_cols == 0:  # a shard that is all padding
        out[:, 0] = out[:, 2] = -torch.inf
        out[:, 1] = -1
        return out
    z = logits[:, :valid_cols].float()
    out[:, 0] = z.amax(-1)
    x = z - out[:, 0].masked_fill(out[:, 0] == -torch.inf, 0.0)[:, None]  # -inf - -inf would be NaN
    e = x.exp()
    out[:, 1] = e.masked_fill(x == 0, 0.0).sum(-1) + ((x == 0).sum(-1) - 1)
    column, here = _targets_here(logits, targets, vocab_offset, valid_cols)
    out[:, 2] = logits.gather(1, column[:, None])[:, 0].float().masked_fill(~here, -torch.inf)
    if entropy:
        out[:, 3] = torch.where(e == 0, 0.0, e * x).sum(-1)
    return out


def gradient(
    logits: Tensor,
    targets: Tensor,
    lse: Tensor,
    row_grad: Tensor,
    vocab_offset: int,
    valid_cols: int,
    *,
    in_place: bool,
) -> Tensor:
    """The gradient by the logits [T, C] in their dtype (see `backends`); over the logits themselves when in_place."""
    scale = row_grad.float()[:, None]
    log_p = (logits.float() - lse[:, :1]) - lse[:, 1:]
    column, here = _targets_here(logits, targets, vocab_offset, valid_cols)
    at_target = -scale * log_p.gather(1, column[:, None]).expm1()  # 1 - p without the cancellation near p = 1
    grad = -scale * log_p.exp()
    grad.scatter_(1, column[:, None], torch.where(here[:, None], at_target, grad.gather(1, column[:, None])))
    grad[:, valid_cols:] = 0
    grad.masked_fill_(scale == 0, 0.0)
    return logits.copy_(grad) if in_place else grad.to(logits.dtype)
