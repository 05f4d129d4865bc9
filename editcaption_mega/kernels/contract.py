"""What every backend returns."""

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
