"""Rows of a step that cost the same: as many tokens each, so that little padding is computed, and as much work on every
rank, so that none waits for another.

Work is not tokens alone: attention grows with the square of a sample's length, and the vision tower's with its patches.
"""

from collections.abc import Sequence
from itertools import chain

import numpy as np

# The longest row may be this much longer than the mean: on GPUs lengths are rounded up by more (128 of 8,192 tokens).
_SLACK = 0.005
_EXCHANGES_PER_ROW = 8  # at most, so that planning a step takes milliseconds


def leveled(lengths: Sequence[int], sequences: Sequence[Sequence[int]]) -> list[list[int]]:
    """The same samples in as many rows, of which the longest is shorter: as long as that helps, it exchanges a sample
    with another row, or gives one away. A pure function.

    lengths[i] is the token count of sample i."""
    # Each row has a place to spare, of no tokens, so that giving a sample away is an exchange, too.
    places = 1 + max(map(len, sequences))
    tokens = np.zeros((len(sequences), places), np.int64)
    numbers = np.full(tokens.shape, -1)
    for row, sequence in enumerate(sequences):
        tokens[row, : len(sequence)] = [lengths[i] for i in sequence]
        numbers[row, : len(sequence)] = sequence
    sums = tokens.sum(1)
    mean = sums.mean()
    for _ in range(_EXCHANGES_PER_ROW * len(sequences)):
        longest = int(sums.argmax())
        if sums[longest] - mean <= _SLACK * mean:
            break
        given = tokens[longest][:, None, None] - tokens  # [places, rows, places]
        longer = np.maximum(sums[longest] - given, sums[:, None] + given)  # of the two rows
        longer[:, longest] = sums[longest]
        mine, row, other = map(int, np.unravel_index(int(longer.argmin()), longer.shape))
        if longer[mine, row, other] >= sums[longest]:
            break
        sums[longest] -= given[mine, row, other]
        sums[row] += given[mine, row, other]
        for values in (tokens, numbers):
            values[longest, mine], values[row, other] = values[row, other], values[longest, mine]
    return [sorted(int(i) for i in row if i >= 0) for row in numbers]


def dealt(sequences: Sequence[list[int]], work: Sequence[float], ranks: int) -> tuple[list[list[int]], float]:
    """The rows in another order, in which rank r of `ranks` takes rows r, r + ranks, .., and the most work that a rank
    has over the mean.

    Rows of about equal work stand side by side, so that what ranks compute at the same time is equal as well.
    work[i] is that of sample i, in any unit. A pure function."""
    of_row = [sum(work[i] for i in sequence) for sequence in sequences]
    order = sorted(range(len(sequences)), key=lambda row: (-of_row[row], sequences[row]))
    groups = [order[first : first + ranks] for first in range(0, len(order), ranks)]
    # There and back, so that no rank always has the most.
    rows = list(chain.from_iterable(group[::-1] if turn % 2 else group for turn, group in enumerate(groups)))
    of_rank = [sum(of_row[row] for row in rows[rank::ranks]) for rank in range(ranks)]
    return [sequences[row] for row in rows], max(of_rank) * ranks / sum(of_rank)
