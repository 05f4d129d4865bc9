"""The linter over a whole set: a file of columns with the rules that each instruction breaks."""

import hashlib
from collections import Counter
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, PairSet, joined
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.evaluation.generate import Part
from editcaption_mega.files import parse_json, plain_file
from editcaption_mega.progress import Progress, no_progress

from .findings import RULES
from .linter import lint

VERSION = 1  # of the rules: raised when the same text may break others
NO_TEXT = "no instruction"


class JsonlTexts:
    """A JSONL of objects with "id" and "instruction", as a set of pairs. Raises ValueError that names the line."""

    def __init__(self, path: str | Path):
        self.path = plain_file(path)
        self.ids: list[str] = []
        digest = hashlib.sha256()
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                digest.update(line)
                self.ids.append(self._object(line, number)[0])
        self.fingerprint = digest.hexdigest()
        if len(set(self.ids)) < len(self.ids):
            twice = next(name for name, count in Counter(self.ids).items() if count > 1)
            raise ValueError(f"{path}: id {twice!r} occurs twice, and columns are joined by id")

    def texts(self) -> Iterator[list[str | None]]:
        with open(self.path, "rb") as file:
            for number, line in enumerate(file, 1):
                yield [self._object(line, number)[1]]

    def _object(self, line: bytes, number: int) -> tuple[str, str | None]:
        try:
            value = parse_json(line)
        except ValueError as error:
            raise ValueError(f"{self.path}, line {number}: {error}") from None
        identity, text = (value.get("id"), value.get("instruction")) if isinstance(value, dict) else (None, None)
        if not isinstance(identity, str) or not isinstance(text, str | None):
            raise ValueError(f'{self.path}, line {number}: expected an object with "id" and "instruction", both texts')
        return identity, text


def lint_pairs(
    pairs: ShardReader | JsonlTexts,
    output: Path,
    *,
    instructions: Path | None = None,
    mirrored: Path | None = None,
    part: Part | None = None,
    progress: Progress = no_progress,
) -> Counter[str] | None:
    """Columns `lint` (names of the rules broken) and `lint_messages` of each instruction, or `reason` where there is
    none -> how many instructions break each rule, and how many there are (key ""); None while a part is missing.

    instructions: a file of columns with `instruction`, instead of the set's own; mirrored: one of the same pairs with
    both pictures flipped, one line per pair. A killed run goes on. Raises ValueError for a file of another set."""
    captions = None if instructions is None else ColumnFile(instructions, pairs)
    settings = {
        "version": VERSION,
        "instructions": None if captions is None else _digest(captions.path),
        "mirrored": None if mirrored is None else _digest(ColumnFile(mirrored).path),
    }
    samples = 1 if captions is None else captions.samples
    with ColumnWork(output, pairs, "lint", settings, samples=samples, part=part) as work:
        texts = enumerate(
            zip(_own(pairs) if captions is None else _made(pairs, captions), _others(pairs, mirrored), strict=False)
        )
        at = -1
        said: list[str | None] = []
        other: str | None = None
        for wanted, sample in progress(work.missing(), work.missing_count, "linted"):
            while at < wanted:
                at, (said, other) = next(texts)
            work.keep(at, _columns(said[sample], other), sample=sample)
        whole = work.merge()
    return _counts(ColumnFile(output, pairs)) if whole else None


def _columns(text: str | None, mirrored: str | None) -> dict[str, object]:
    if text is None:
        return {"reason": NO_TEXT}
    findings = lint(text, mirrored)
    return {
        "lint": list(dict.fromkeys(finding.rule for finding in findings)),
        "lint_messages": [finding.message for finding in findings],
    }


def _own(pairs: ShardReader | JsonlTexts) -> Iterator[list[str | None]]:
    if isinstance(pairs, JsonlTexts):
        yield from pairs.texts()
        return
    for at in range(len(pairs)):
        pair = pairs.pair(at)
        yield [pair.instruction or pair.chosen]


def _made(pairs: PairSet, captions: ColumnFile) -> Iterator[list[str | None]]:
    for _, (rows,) in joined(pairs, [captions]):
        yield [row.get("instruction") for row in rows]


def _others(pairs: PairSet, mirrored: Path | None) -> Iterator[str | None]:
    """The mirrored pairs' instructions: of other shards, so that only the ids can be compared."""
    if mirrored is None:
        yield from (None for _ in pairs.ids)
        return
    for pair_id, rows in zip_longest(pairs.ids, ColumnFile(mirrored)):
        made_of = rows[0]["id"] if rows else "the end"
        if made_of != pair_id:
            raise ValueError(f"{mirrored}: {made_of} stands where pair {pair_id} was expected: flip these shards")
        yield rows[0].get("instruction")


def _counts(made: ColumnFile) -> Counter[str]:
    counts = Counter(dict.fromkeys(RULES, 0))
    for rows in made:
        for row in rows:
            counts[""] += "lint" in row
            counts.update(row.get("lint", ()))
    return counts


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()
