"""The texts that are scored: captions of a file, or the shards' own instructions; with their opposites where asked."""

import hashlib
import json
from collections.abc import Iterator, Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.evaluation.generate import Part

from .directions import opposite


class CandidateTexts:
    """Of each pair the distinct texts in the order in which they come (`data.batching.scoring.PairTexts`).

    captions: a file of columns with `instruction`; None: the shards' own instructions. Pairs without any text are left
    out. The texts of one part are in memory. Raises ValueError where no pair has a text."""

    def __init__(
        self,
        shards: ShardReader,
        captions: ColumnFile | None,
        *,
        opposites: bool = False,
        part: Part | None = None,
    ):
        part = part or Part()
        self._texts: list[tuple[str, ...]] = []
        positions = []
        digest = hashlib.sha256()
        for at, of_pair in enumerate(sampled_texts(shards, captions)):
            if at % part.count != part.number:
                continue
            texts = [text for text in of_pair if text]
            if opposites:
                texts = [text for own in texts for text in (own, opposite(own)) if text]
            distinct = tuple(dict.fromkeys(texts))
            if distinct:
                positions.append(at)
                self._texts.append(distinct)
                digest.update(json.dumps([at, *distinct]).encode())
        if not positions:
            raise ValueError(f"no pair has a text to score in {captions.path if captions else 'these shards'}")
        self.positions: NDArray[np.int64] = np.array(positions, np.int64)
        self.fingerprint: str = digest.hexdigest()
        self.most: int = max(map(len, self._texts))

    def texts(self, k: int) -> Sequence[str]:
        return self._texts[k]


def sampled_texts(shards: ShardReader, captions: ColumnFile | None) -> Iterator[list[str | None]]:
    """The text of each sample of each pair, None where there is none."""
    if captions is None:
        yield from ([shards.pair(i).instruction] for i in range(len(shards)))
    else:
        yield from ([row.get("instruction") for row in rows] for rows in captions)


def write_alternatives(output: Path, shards: ShardReader, captions: ColumnFile) -> int:
    """Of each caption its text and the one with every direction turned, as samples of one file -> the texts turned.

    What a model is asked when it checks itself: do you believe this, or its opposite? Of n samples a pair has 2 n, each
    text before its opposite. A text without directions has no alternative, which its line says."""
    turned = 0
    samples = 2 * captions.samples
    with ColumnWork(output, shards, "alternatives", {"captions": captions.head}, samples=samples) as work:
        for at, of_pair in enumerate(sampled_texts(shards, captions)):
            texts = [both for text in of_pair for both in (text, opposite(text) if text else None)]
            for sample, text in enumerate(texts):
                own = sample % 2 == 0
                turned += bool(text) and not own
                if work.lacks(at, sample):
                    reason = "no text" if own or not texts[sample - 1] else "names no direction"
                    work.keep(at, {"instruction": text} if text else {"reason": reason}, sample=sample)
        work.merge()
    return turned
