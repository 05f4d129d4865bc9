"""Which pairs people see first: those that columns of measures and scores make look worst."""

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.curation.columns import ColumnFile, PairSet, joined

_UNKNOWN = 0.5  # the rank of a pair that a column says nothing of: neither early nor late
# Columns of which much is bad; of every other one little is, unless the argument says so.
_HIGH_IS_DOUBTFUL = {"lint"}


@dataclass(frozen=True)
class Screen:
    """A column to judge by. name: "COLUMN", or "COLUMN:low" and "COLUMN:high" for the end that is doubtful."""

    file: ColumnFile
    column: str
    high_is_doubtful: bool

    @classmethod
    def parse(cls, argument: str, pairs: PairSet) -> "Screen":
        """FILE.jsonl:COLUMN[:low|high]. Raises ValueError for anything else, and as `ColumnFile`."""
        text, _, end = argument.rpartition(":")
        if end not in ("low", "high"):
            text, end = argument, ""
        path, _, column = text.rpartition(":")
        if not path or not column:
            raise ValueError(f"{argument!r} names no column: expected FILE.jsonl:COLUMN, or FILE.jsonl:COLUMN:low|high")
        high = end == "high" if end else column in _HIGH_IS_DOUBTFUL
        return cls(ColumnFile(Path(path), pairs), column, high)

    def values(self, pairs: PairSet) -> Iterator[Any]:
        """Of every pair in the shards' order, None where there is none: of several samples the mean of what can be
        ordered, else the value itself."""
        seen = False
        for _, (rows,) in joined(pairs, [self.file]):
            given = [row[self.column] for row in rows if row.get(self.column) is not None]
            seen = seen or any(self.column in row for row in rows)
            numbers = [number for value in given if (number := as_number(value)) is not None]
            yield sum(numbers) / len(numbers) if len(numbers) > 1 else (given[0] if given else None)
        if not seen:
            raise ValueError(f"{self.file.path} has no column {self.column!r}: name one that its lines have")


@dataclass(frozen=True)
class Hardness:
    """By how much a model prefers the text to the pair's own instruction: the difference of two columns of log-probs,
    in nats. Above 0 the model is sure of what is likely to be wrong."""

    of_text: Screen
    of_own: Screen
    column: str = "hardness"
    high_is_doubtful: bool = True

    def values(self, pairs: PairSet) -> Iterator[Any]:
        """Of every pair in the shards' order, None where one of the two is missing."""
        for text, own in zip(self.of_text.values(pairs), self.of_own.values(pairs), strict=True):
            numbers = (as_number(text), as_number(own))
            yield None if numbers[0] is None or numbers[1] is None else round(numbers[0] - numbers[1], 6)


AnyScreen = Screen | Hardness


def as_number(value: Any) -> float | None:
    """A number that columns are ordered by: of a list or text how long it is, of a truth value 0 or 1."""
    if isinstance(value, list | dict | str):
        return float(len(value))
    if isinstance(value, bool | int | float) and math.isfinite(value):
        return float(value)
    return None


def doubt_of(pairs: PairSet, screens: Sequence[AnyScreen]) -> NDArray[np.float64]:
    """How doubtful each pair is, 0 .. 1, [N]: the mean over the columns of its rank from the end that is not doubtful.

    Ranks, since columns have different scales; equal values have one rank. Without screens all pairs are equal.
    Raises ValueError for a column that no line has."""
    doubt = np.zeros(len(pairs.ids))
    for screen in screens:
        values = np.array([np.nan if (x := as_number(v)) is None else x for v in screen.values(pairs)])
        doubt += _ranks(values if screen.high_is_doubtful else -values)
    return doubt / max(1, len(screens))


def _ranks(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mid-ranks as shares of the values that are numbers, in 0 .. 1."""
    ranks = np.full(len(values), _UNKNOWN)
    known = np.flatnonzero(~np.isnan(values))
    if len(known) < 2:
        return ranks
    _, group, counts = np.unique(values[known], return_inverse=True, return_counts=True)
    middle = counts.cumsum() - (counts + 1) / 2
    ranks[known] = middle[group] / (len(known) - 1)
    return ranks
