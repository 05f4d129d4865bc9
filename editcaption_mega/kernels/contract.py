"""What a backend is, and what it returns.

A backend has these functions over one matrix of logits [T, C] (a vocabulary or its shard):

    parts(rows, cols) -> int
        into how many parts `stats` should cut the columns of each row
    stats(logits, targets, vocab_offset, valid_cols, parts, details) -> [parts, T, 4 or 6] fp32
        for each part of a row: its max; sum of exp(z - max), less 1; the target's logit (-inf where another part or
        shard holds it); with details also: sum of (z - max) exp(z - max); sum of z; argmax (a vocabulary id)
        (less 1, the maximum's own term: near certainty the rest is 1 - p, which fp32 would lose beside a 1)
    finalize(stats [parts, T, 4 or 6], vocab_size, bounds, preference, reference, margin) -> Final
        the parts of all splits and shards, merged in their order; bounds [S + 1] int64 or None; the answers of pair i
        are the sequences 2 i (chosen) and 2 i + 1 (rejected); reference [S] and margin [N] fp32 or None
    gradient(logits, targets, log_probs, lse, row_grad, vocab_offset, valid_cols, in_place) -> [T, C]
        row_grad * (1[column is target] - exp(z - max - log_sum)); padding columns and rows with row_grad 0 become 0
"""

from typing import NamedTuple

from torch import Tensor

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
