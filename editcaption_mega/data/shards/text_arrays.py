"""Many short texts in two arrays, which a file can hold and all processes of a machine map."""

from collections.abc import Iterable, Iterator, Sequence
from typing import overload

import numpy as np

_ROWS_AT_ONCE = 1 << 16


class Texts(Sequence[str]):
    """Texts that stand one after another in an array of UTF-8 [bytes] uint8; text i ends before ends[i] [N] int64."""

    def __init__(self, content: np.ndarray, ends: np.ndarray):
        # As plain arrays: a mapped one of numpy's looks at itself again whenever a part of it is taken.
        self.content, self.ends = content.view(np.ndarray), ends.view(np.ndarray)

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        encoded = [text.encode() for text in texts]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    @classmethod
    def joined(cls, parts: Sequence["Texts"]) -> "Texts":
        """All texts of the parts, one part after another."""
        if len(parts) == 1:
            return parts[0]
        sizes = np.cumsum([0, *(len(part.content) for part in parts)])
        ends = [part.ends + start for part, start in zip(parts, sizes, strict=False)]
        return cls(np.concatenate([part.content for part in parts]), np.concatenate(ends))

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of {len(self)}")
        i %= len(self)
        begin, end = self.ends[i - 1 : i + 1].tolist() if i else (0, int(self.ends[0]))
        return self.content[begin:end].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        for first in range(0, len(self), _ROWS_AT_ONCE):
            ends = self.ends[first : first + _ROWS_AT_ONCE].tolist()
            start = int(self.ends[first - 1]) if first else 0
            content = self.content[start : ends[-1]].tobytes()
            begin = 0
            for end in ends:
                yield content[begin : end - start].decode()
                begin = end - start

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]

    @property
    def sizes(self) -> np.ndarray:
        """Bytes of each text [N] int64."""
        return np.diff(self.ends, prepend=0)

    def take(self, rows: np.ndarray) -> "Texts":
        """Some of the texts, in this order. rows [n] int64"""
        sizes = self.sizes[rows]
        ends = np.cumsum(sizes)
        begins = self.ends[rows] - sizes
        return Texts(
            self.content[np.repeat(begins - (ends - sizes), sizes) + np.arange(ends[-1] if len(ends) else 0)], ends
        )

    def with_prefix(self, prefix: str) -> "Texts":
        """Each text with the same one before it."""
        before = np.frombuffer(prefix.encode(), np.uint8)
        count, size = len(self), len(before)
        ends = self.ends + size * np.arange(1, count + 1)
        content = np.empty(len(self.content) + size * count, np.uint8)
        content[np.arange(len(self.content)) + size * np.repeat(np.arange(1, count + 1), self.sizes)] = self.content
        content[(ends - self.sizes - size)[:, None] + np.arange(size)] = before
        return Texts(content, ends)

    def hashes(self) -> np.ndarray:
        """A number for each text [N] uint64, the same for the same text: of each byte and its place in the text one is
        drawn, and they are combined by exclusive or (tabulation hashing)."""
        sizes = self.sizes
        drawn = np.random.default_rng(0).integers(0, 1 << 64, (int(sizes.max(initial=0)) + 1, 256), np.uint64)
        hashes = np.empty(len(self), np.uint64)
        for first in range(0, len(self), _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            size, last = sizes[rows], int(self.ends[rows][-1])
            begin = last - int(size.sum())
            starts = self.ends[rows] - size - begin
            place = np.arange(last - begin) - np.repeat(starts, size)
            # Behind each text stands its size, so that none is empty and "a" is not "a" and nothing.
            values = np.insert(drawn[place, self.content[begin:last]], starts + size, drawn[size, 0])
            hashes[rows] = np.bitwise_xor.reduceat(values, starts + np.arange(len(size)))
        return hashes


def repeated(texts: Texts) -> tuple[int, int] | None:
    """Two rows with the same text, the first such; None where all texts differ."""
    hashes = texts.hashes()
    order = np.argsort(hashes, kind="stable")
    same = np.flatnonzero(hashes[order[1:]] == hashes[order[:-1]])
    alike = sorted((int(order[k]), int(order[k + 1])) for k in same)
    return next(((a, b) for a, b in alike if texts[a] == texts[b]), None)
