"""Pairs that a job looks at and never trains on: a part cut off its own, or others, which must be none of its own."""

from dataclasses import dataclass
from typing import Any

import numpy as np

from editcaption_mega.data.shards.shard_columns import ShardColumns
from editcaption_mega.settings import SettingsError

from .order import splitmix64


@dataclass(frozen=True)
class Cut:
    """One side of the cut through a set of pairs: a pure function of the pictures, the share and the seed.

    share: of the pairs that are held out, in whole groups of pairs with one source picture, as near to it as the last
    group lets; seed: which of them."""

    share: float
    seed: int
    held_out: bool  # the side: the pairs held out, or all others

    def key(self) -> list[Any]:
        """For JSON."""
        return [self.share, self.seed, self.held_out]

    def of(self, columns: ShardColumns) -> ShardColumns:
        """Raises SettingsError where one side would be empty."""
        held_out = self.rows(columns.pictures[:, 0])
        if held_out.all():
            raise SettingsError(
                f"data.held_out_share={self.share} would hold out all {len(held_out)} pairs of data.shards (pairs "
                "with one source picture stay together): lower it, or hold out pairs of other folders (data.held_out)"
            )
        return columns.take(np.flatnonzero(held_out == self.held_out))

    def rows(self, sources: np.ndarray) -> np.ndarray:
        """sources [N] int64: a number for each source picture -> [N] bool: which pairs are held out, at least one."""
        values, group, sizes = np.unique(sources, return_inverse=True, return_counts=True)
        key = splitmix64(self.seed)
        order = np.array([splitmix64((value & (1 << 64) - 1) ^ key) for value in values.tolist()], np.uint64).argsort()
        wanted = max(1, round(self.share * len(sources)))
        taken = 1 + int(np.searchsorted(np.cumsum(sizes[order]), wanted))
        chosen = np.zeros(len(values), bool)
        chosen[order[:taken]] = True
        rows: np.ndarray = chosen[group]
        return rows


def compared_with_training(held_out: ShardColumns, training: ShardColumns) -> list[str]:
    """Lines that say what the pairs of data.held_out have in common with those that are trained on. Raises
    SettingsError where some are the same pair."""
    trained = _pairs(training.pictures)
    same = np.flatnonzero(_among(_pairs(held_out.pictures), trained))
    if len(same):
        first = int(same[0])
        other = int(np.flatnonzero((training.pictures == held_out.pictures[first]).all(1))[0])
        others = f", as do {len(same) - 1:,} more of {len(held_out.ids):,}" if len(same) > 1 else ""
        raise SettingsError(
            f"sample {held_out.ids[first]} of data.held_out has the pictures of sample {training.ids[other]} of "
            f"data.shards{others}: what is trained on tells nothing when it is held out; take such pairs out of one of "
            "them, or leave data.held_out empty and set data.held_out_share"
        )
    lines = []
    swapped = int(_among(_pairs(held_out.pictures[:, ::-1]), trained).sum())
    if swapped:
        lines.append(
            f"note: {swapped:,} of {len(held_out.ids):,} held-out pairs are in data.shards, too, with source and "
            "target swapped"
        )
    sources = int(_among(held_out.pictures[:, 0], training.pictures.reshape(-1)).sum())
    if sources:
        lines.append(
            f"note: the source pictures of {sources:,} of {len(held_out.ids):,} held-out pairs are in data.shards, "
            "too, with other edits"
        )
    shared = int(np.isin(training.ids.hashes(), held_out.ids.hashes()).sum())
    if shared:
        lines.append(
            f"note: {shared:,} ids of held-out pairs are those of other pairs in data.shards: messages that name them "
            "may mean either"
        )
    return lines


def _among(few: np.ndarray, many: np.ndarray) -> np.ndarray:
    """[n] bool: which of the few are among the many, without sorting those."""
    ordered = np.sort(few)
    at = np.searchsorted(ordered, many).clip(max=len(few) - 1)
    among: np.ndarray = np.isin(few, many[ordered[at] == many])
    return among


def _pairs(pictures: np.ndarray) -> np.ndarray:
    """A number for each pair [N] of the numbers of its two pictures [N, 2]; others collide as rarely as 64 bits do."""
    with np.errstate(over="ignore"):
        mixed: np.ndarray = pictures[:, 0] * np.int64(0x9E3779B97F4A7C15 - (1 << 64)) + pictures[:, 1]
    return mixed
