"""The texts that are scored: captions of a file, or the shards' own instructions; with their opposites where asked."""

import hashlib
import json
from collections.abc import Iterator, Sequence

import numpy as np

from editcaption_mega.curation.columns import ColumnFile
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
        self.positions: np.ndarray = np.array(positions, np.int64)
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
