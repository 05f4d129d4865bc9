"""The `torch` backend: the contract in plain PyTorch, on any device; the others are read against it."""

import torch
from torch import Tensor

from .contract import DETAILS_WIDTH, STATS_WIDTH, Final
from .preference_losses import PreferenceLossConfig, pair_losses


def _targets_here(logits: Tensor, targets: Tensor, vocab_offset: int, valid_cols: int) -> tuple[Tensor, Tensor]:
    """(column of each target, clamped into the shard [T]; whether this shard holds it [T])."""
    column = targets - vocab_offset
    here = (column >= 0) & (column < valid_cols)
    return column.clamp(0, max(logits.shape[1] - 1, 0)), here


class Torch:
    """The `Backend` that runs everywhere."""

    def is_available(self) -> bool:
        return True

    def parts(self, rows: int, cols: int) -> int:
        return 1

    def stats(
        self, logits: Tensor, targets: Tensor, vocab_offset: int, valid_cols: int, parts: int = 1, details: bool = False
    ) -> Tensor:
        width = DETAILS_WIDTH if details else STATS_WIDTH
        out = torch.zeros(1, logits.shape[0], width, dtype=torch.float32, device=logits.device)
        record = out[0]
        if valid_cols == 0:  # a shard that is all padding
            record[:, 0] = record[:, 2] = -torch.inf
            record[:, 1] = -1
            return out
        z = logits[:, :valid_cols].float()
        record[:, 0] = z.amax(-1)
        x = z - record[:, 0].masked_fill(record[:, 0] == -torch.inf, 0.0)[:, None]  # -inf - -inf would be NaN
        e = x.exp()
        record[:, 1] = e.masked_fill(x == 0, 0.0).sum(-1) + ((x == 0).sum(-1) - 1)
        column, here = _targets_here(logits, targets, vocab_offset, valid_cols)
        record[:, 2] = logits.gather(1, column[:, None])[:, 0].float().masked_fill(~here, -torch.inf)
        if details:
            record[:, 3] = torch.where(e == 0, 0.0, e * x).sum(-1)
            record[:, 4] = z.sum(-1)
            record[:, 5] = vocab_offset + z.argmax(-1)
        return out

    def finalize(
        self,
        stats: Tensor,
        vocab_size: int,
        bounds: Tensor | None = None,
        config: PreferenceLossConfig | None = None,
        reference: Tensor | None = None,
        margins: Tensor | None = None,
    ) -> Final:
        top, best = stats[:, :, 0].max(0)
        gap = stats[:, :, 0].double() - top
        scale = gap.exp().masked_fill(gap.isnan() & ~top.isnan(), 0.0)  # -inf - -inf: nothing in any part
        full = 1 + stats[:, :, 1].double()
        # Summed less 1: the part that holds the maximum brings its rest, the others all of theirs.
        terms = (scale * full).scatter(0, best[None], stats[:, :, 1].double().gather(0, best[None]))
        rest = terms.sum(0)
        log_sum = rest.log1p().float()
        # (z - max) - log_sum, in this order: max + log_sum would round the small part away when logits are large
        log_probs = (stats[:, :, 2].amax(0) - top) - log_sum
        lse = torch.stack((top, log_sum), dim=1)
        details = stats.new_empty(0, 3)
        if stats.shape[2] == DETAILS_WIDTH:
            weighted = torch.where(scale * full > 0, scale * (stats[:, :, 3] + gap * full), 0.0).sum(0)
            entropy = log_sum - (weighted / (1 + rest)).float()
            mean = stats[:, :, 4].sum(0) / vocab_size
            details = torch.stack((entropy, mean, stats[:, :, 5].gather(0, best[None])[0]), dim=1)
        sums, loss, rewards, row_scale = (stats.new_empty(shape) for shape in ((0,), (0,), (0, 2), (0,)))
        if bounds is not None:
            exact = torch.segment_reduce(log_probs.double(), "sum", offsets=bounds)
            sums = exact.float()
        if config is not None:
            assert bounds is not None, "pairs are of answers, which have bounds"
            pairs = pair_losses(
                config,
                exact.view(-1, 2),
                None if reference is None else reference.double().view(-1, 2),
                bounds.diff().double().view(-1, 2),
                None if margins is None else margins.double(),
            )
            loss, rewards = pairs.loss.float(), pairs.rewards.float()
            row_scale = pairs.scales.view(-1).repeat_interleave(bounds.diff(), output_size=len(log_probs)).float()
        return Final(log_probs, lse, details, sums, loss, rewards, row_scale)

    def gradient(
        self,
        logits: Tensor,
        targets: Tensor,
        log_probs: Tensor,
        lse: Tensor,
        row_grad: Tensor,
        vocab_offset: int,
        valid_cols: int,
        *,
        in_place: bool,
    ) -> Tensor:
        scale = row_grad.float()[:, None]
        grad = -scale * ((logits.float() - lse[:, :1]) - lse[:, 1:]).exp()
        column, here = _targets_here(logits, targets, vocab_offset, valid_cols)
        at_target = -scale * log_probs[:, None].expm1()  # 1 - p without the cancellation near p = 1
        grad.scatter_(1, column[:, None], torch.where(here[:, None], at_target, grad.gather(1, column[:, None])))
        grad[:, valid_cols:] = 0
        grad.masked_fill_(scale == 0, 0.0)
        return logits.copy_(grad) if in_place else grad.to(logits.dtype)
