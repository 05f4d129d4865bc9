"""How far the captions of a pair agree with one another: what a model is sure of it says again.

Similarity of two texts: the F1 of the words that they share, each counted as often as it stands there, case folded; a
Chinese character is a word (SQuAD's measure, Rajpurkar et al. 2016, without its stop words taken out, since "on the" is
what tells sides). 1: the same words in any order; 0: none shared."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, ColumnWork
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.settings import SettingsError

STEP = "score agreement"
SIMILARITY = "F1 of shared words, v1"
_WORD = re.compile(r"[\u3400-\u9fff\uf900-\ufaff]|[^\W\u3400-\u9fff\uf900-\ufaff]+")


def word_counts(text: str) -> Counter[str]:
    return Counter(_WORD.findall(text.casefold()))


def similarity(one: Counter[str], other: Counter[str]) -> float:
    """In 0 .. 1, the same both ways."""
    total = one.total() + other.total()
    return 2 * (one & other).total() / total if total else 0.0


def agreements(texts: Sequence[str | None]) -> list[float | None]:
    """Of each text its mean similarity to the others that there are; None where there is no text or no other."""
    counted = [word_counts(text) if text else None for text in texts]
    means: list[float | None] = []
    for i, own in enumerate(counted):
        others = [similarity(own, other) for j, other in enumerate(counted) if own and other and j != i]
        means.append(sum(others) / len(others) if others else None)
    return means


def write_agreement(captions: ColumnFile, reader: ShardReader, output: Path) -> None:
    """A file with the column `agreement` (or `reason`), a line per caption as in the file of captions.

    Raises SettingsError for captions of one sample per pair, and as ColumnWork."""
    if captions.samples < 2:
        raise SettingsError(f"{captions.path} has one caption per pair: agreement is between several (samples=4)")
    with open(captions.path, "rb") as file:
        about: dict[str, Any] = {"captions": hashlib.file_digest(file, "sha256").hexdigest(), "similarity": SIMILARITY}
    with ColumnWork(output, reader, STEP, about, samples=captions.samples) as work:
        missing = {at for at, _ in work.missing()}
        for at, rows in enumerate(captions):
            if at not in missing:
                continue
            for sample, value in enumerate(agreements([row.get("instruction") for row in rows])):
                reason = "no instruction" if "instruction" not in rows[sample] else "no other instruction"
                work.keep(at, {"reason": reason} if value is None else {"agreement": round(value, 4)}, sample=sample)
        work.merge()
