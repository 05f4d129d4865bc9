"""What a backend is, and what it returns."""

from typing import NamedTuple, Protocol

from torch import Tensor

from .preference_losses import PreferenceLossConfig

STATS_WIDTH, DETAILS_WIDTH = 4, 6


class Final(NamedTuple):
    """What `finalize` returns; all fp32, contiguous. Fields that weren't asked for have no elements."""

    log_probs: Tensor  # [T]
    lse: Tensor  # [T, 2]: max and log of the sum of exp(z - max)
    details: Tensor  # [T, 3]: entropy, mean logit, argmax
    sums: Tensor  # [S]: log-probs summed over each sequence
    loss: Tensor  # [N]: of each pair of sequences
    rewards: Tensor  # [N, 2]: of the chosen and the rejected answer
    row_scale: Tensor  # [T]: the pair's loss differentiated by the row's log-prob


class Backend(Protocol):
    """The kernels over one matrix of logits [T, C]: a vocabulary, or the shard of it that begins at vocab_offset and
    has valid_cols columns before its padding. targets [T] are global ids, int64. Nothing checks its arguments."""

    def is_available(self) -> bool:
        """Whether it can run on this machine."""
        ...

    def parts(self, rows: int, cols: int) -> int:
        """Into how many parts `stats` should cut the columns of each row."""
        ...

    def stats(
        self,
        logits: Tensor,
        targets: Tensor,
        vocab_offset: int,
        valid_cols: int,
        parts: int = 1,
        details: bool = False,
    ) -> Tensor:
        """-> [parts, T, 4 or 6] fp32. For each part of a row: its max; sum of exp(z - max), less 1; the target's logit
        (-inf where another part or shard holds it); with details also: sum of (z - max) exp(z - max); sum of z; argmax
        (a vocabulary id).

        Less 1, the maximum's own term: near certainty the rest is 1 - p, which fp32 would lose beside a 1."""
        ...

    def finalize(
        self,
        stats: Tensor,
        vocab_size: int,
        bounds: Tensor | None = None,
        config: PreferenceLossConfig | None = None,
        reference: Tensor | None = None,
        margins: Tensor | None = None,
    ) -> Final:
        """The parts [parts, T, 4 or 6] of all splits and shards, merged in their order. bounds: [S + 1] int64 or None;
        with a loss the answers of pair i are the sequences 2 i (chosen) and 2 i + 1 (rejected), reference [S] fp32
        their log-probs under the reference model and margins [N] fp32 what is added to the margin of each pair."""
        ...

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
        """row_grad * (1[column is target] - exp(z - max - log_sum)) -> [T, C], in the logits' memory when in_place.
        Padding columns and rows with row_grad 0 become 0."""
        ...
