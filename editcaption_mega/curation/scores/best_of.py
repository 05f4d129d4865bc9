"""The best of n: of each pair's sampled instructions the one that its scores prefer, as a file of one caption a pair.

A rule is a sum of columns with weights. What a text does not have (no direction, so no margin_opposite) counts 0, but a
text without the first column has no score and is never chosen. Of equal texts the first sample stands for all."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.curation.columns import ColumnFile, ColumnWork, joined
from editcaption_mega.data.shards.reader import ShardReader
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

    Raises SettingsError for scores of another number of samples, and for a column that no line of `scores` has."""
    for file in scores:
        if file.samples != captions.samples:
            raise SettingsError(
                f"{file.path} has {file.samples} lines a pair and {captions.path} {captions.samples}: score the samples"
            )
    settings = {
        "captions": captions.head, "scores": [file.head for file in scores],
        "by": [[column.name, column.weight] for column in rule],
    }  # fmt: skip
    seen: set[str] = set()
    chosen = 0
    with ColumnWork(output, shards, "best-of", settings) as work:
        for at, (texts, *of_files) in joined(shards, [captions, *scores]):
            lines = [_merged(sample) for sample in zip(*of_files, strict=True)]
            seen.update(*lines)
            best = _best(texts, lines, rule)
            chosen += best is not None
            if work.lacks(at):
                work.keep(at, best or {"reason": "none of its samples has a score"})
        if absent := [column.name for column in rule if column.name not in seen]:
            raise SettingsError(
                f"no line has a column {', '.join(absent)}: expected one of {', '.join(sorted(seen - _NO_SCORE))}"
            )
        work.merge()
    return chosen


_NO_SCORE = {"id", "sample", "reason"}


def _merged(lines: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    return {name: value for line in lines for name, value in line.items()}


def _best(
    texts: Sequence[Mapping[str, Any]], lines: Sequence[Mapping[str, Any]], rule: Sequence[WeightedColumn]
) -> dict[str, Any] | None:
    scored = [
        (sum(column.weight * line.get(column.name, 0.0) for column in rule), -number)
        for number, (text, line) in enumerate(zip(texts, lines, strict=True))
        if text.get("instruction") and rule[0].name in line
    ]
    if not scored:
        return None
    score, place = max(scored)
    return {"instruction": texts[-place]["instruction"], "score": score, "chosen_sample": -place, "of": len(texts)}
