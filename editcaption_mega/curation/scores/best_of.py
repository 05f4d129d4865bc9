"""The best of n: of each pair's sampled instructions the one that its scores prefer, as a file of one caption a pair.

A rule is a sum of columns with weights. What a text does not have (no direction, so no margin_opposite) counts 0, but a
text without the first column has no score and is never chosen. Of equal texts the first sample stands for all."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, joined
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.records import shown
from editcaption_mega.settings import SettingsError


@dataclass(frozen=True)
class WeightedColumn:
    name: str
    weight: float = 1.0

    @classmethod
    def parse(cls, text: str) -> "WeightedColumn":
        """`log_prob` or `margin_opposite:0.5`. Raises SettingsError."""
        name, colon, weight = text.partition(":")
        try:
            value = float(weight) if colon else 1.0
        except ValueError:
            value = float("nan")
        if not name.isidentifier() or not abs(value) < float("inf"):
            raise SettingsError(f"--by {text!r}: expected COLUMN or COLUMN:WEIGHT, such as margin_opposite:0.5")
        return cls(name, value)


def best_of(
    output: Path,
    shards: ShardReader,
    captions: ColumnFile,
    scores: Sequence[ColumnFile],
    rule: Sequence[WeightedColumn],
) -> int:
    """Write the chosen captions -> the pairs that have one.

    Raises SettingsError for scores of another number of samples, and for a rule whose columns `scores` lack or have
    otherwise than as numbers."""
    for file in scores:
        if file.samples != captions.samples:
            raise SettingsError(
                f"{file.path} has {file.samples} lines a pair and {captions.path} {captions.samples}: score the samples"
            )
    _check_rule(scores, rule)
    settings = {
        "captions": captions.head, "scores": [file.head for file in scores],
        "by": [[column.name, column.weight] for column in rule],
    }  # fmt: skip
    chosen = 0
    with ColumnWork(output, shards, "best-of", settings) as work:
        for at, (texts, *of_files) in joined(shards, [captions, *scores]):
            best = _best(texts, [_merged(sample) for sample in zip(*of_files, strict=True)], rule)
            chosen += best is not None
            if work.lacks(at):
                work.keep(at, best or {"reason": "none of its samples has a score"})
        work.merge()
    return chosen


_NO_SCORE = {"id", "sample", "reason"}


def _check_rule(scores: Sequence[ColumnFile], rule: Sequence[WeightedColumn]) -> None:
    """Raises SettingsError for a column that is given twice, or that no line has. Reads until all have been seen."""
    names = [column.name for column in rule]
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise SettingsError(f"--by has {twice[0]} twice: add up its weights")
    seen: set[str] = set()
    for file in scores:
        for rows in file:
            seen |= {name for row in rows for name in row} - _NO_SCORE
            if seen.issuperset(names):
                return
    absent = ", ".join(name for name in names if name not in seen)
    raise SettingsError(f"no line has a column {absent}: expected one of {', '.join(sorted(seen))}")


def _merged(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for line in lines for name, value in line.items()}


def _best(
    texts: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], rule: Sequence[WeightedColumn]
) -> dict[str, Any] | None:
    scored = [
        (sum(column.weight * _number(line, column.name) for column in rule), -number)
        for number, (text, line) in enumerate(zip(texts, lines, strict=True))
        if text.get("instruction") and rule[0].name in line
    ]
    if not all(math.isfinite(score) for score, _ in scored):
        raise SettingsError("the sum of --by is beyond all numbers: give smaller weights")
    if not scored:
        return None
    score, place = max(scored)
    return {"instruction": texts[-place]["instruction"], "score": score, "chosen_sample": -place, "of": len(texts)}


def _number(line: Mapping[str, Any], name: str) -> float:
    """A column of a line; 0 where it has none. Raises SettingsError for one that is no number."""
    value = line.get(name, 0.0)
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise SettingsError(f"column {name} is {shown(value)}: --by takes columns of numbers")
    return float(value)
