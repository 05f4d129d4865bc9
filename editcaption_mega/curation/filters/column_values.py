"""The columns that a filter's rules are about, of every pair: a number or a mark each, 9 bytes per rule and pair."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from statistics import fmean
from typing import Any

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.curation.columns import ColumnFile, joined
from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import CATEGORIES
from editcaption_mega.settings import SettingsError

from .filter_rules import FilterRule

PASSED, FAILED, ABSENT = 1, 0, -1
OF_THE_PAIR = ("category", "edit_type")  # columns that every set has


@dataclass
class ColumnValues:
    """numbers, marks: by the rule's place, [pairs]; NaN and ABSENT where there is no value."""

    numbers: dict[int, NDArray[np.float64]] = field(default_factory=dict)
    marks: dict[int, NDArray[np.int8]] = field(default_factory=dict)
    category: NDArray[np.int8] = field(default_factory=lambda: np.zeros(0, np.int8))  # of records.CATEGORIES
    sample: NDArray[np.int32] = field(default_factory=lambda: np.zeros(0, np.int32))  # which of a pair's samples counts


def read_values(
    shards: ShardReader,
    files: Sequence[ColumnFile],
    rules: Sequence[FilterRule],
    *,
    best: str | None = None,
    progress: Progress = no_progress,
) -> ColumnValues:
    """One pass over the files. best: the column whose highest value says which sample of a pair counts, where files
    hold several per pair.

    Raises SettingsError for a column that no file has, or several; ValueError for a value of another kind."""
    samples = check_samples(files, best)
    sources = [_source(files, rule.column, rule.text) for rule in rules]
    chooser = None if best is None else _source(files, best, f"--best {best}")
    count = len(shards)
    values = ColumnValues(category=np.zeros(count, np.int8), sample=np.zeros(count, np.int32))
    for place, rule in enumerate(rules):
        if rule.is_numeric:
            values.numbers[place] = np.full(count, np.nan)
        else:
            values.marks[place] = np.full(count, ABSENT, np.int8)
    seen = [False] * len(rules)
    for at, lines in progress(joined(shards, files), count, "read"):
        pair = shards.pair(at)
        lines = [of_texts(rows) for rows in lines]
        values.category[at] = CATEGORIES.index(pair.category)
        chosen = 0 if chooser is None or samples == 1 else _best_sample(lines[chooser[0]], chooser[1])
        values.sample[at] = chosen
        for place, (rule, (file, name)) in enumerate(zip(rules, sources, strict=True)):
            if file < 0:
                value: Any = getattr(pair, name)
            else:
                row = lines[file][chosen if len(lines[file]) > 1 else 0]
                seen[place] |= name in row
                value = row.get(name)
            if value is not None:
                _take(values, place, rule, at, value, shards.ids[at])
    for rule, (file, name), was_seen in zip(rules, sources, seen, strict=True):
        if file >= 0 and not was_seen:
            there = ", ".join(sorted(names_of(files[file])))
            raise SettingsError(
                f"rule {rule.text!r}: no pair of {files[file].path} has a column {name!r} (there are {there})"
            )
    return values


def _take(values: ColumnValues, place: int, rule: FilterRule, at: int, value: Any, identity: str) -> None:
    if not rule.is_numeric:
        values.marks[place][at] = PASSED if rule.passes(value) else FAILED
    elif isinstance(value, int | float):
        values.numbers[place][at] = value
    else:
        raise ValueError(f"rule {rule.text!r} is about a number, and {rule.column} of pair {identity} is {value!r}")


def check_samples(files: Sequence[ColumnFile], best: str | None) -> int:
    """How many samples a pair has. Raises SettingsError for files of several numbers, or without `best`."""
    several = {texts for file in files if (texts := _texts(file)) > 1}
    if len(several) > 1:
        raise SettingsError(f"files with {' and '.join(map(str, sorted(several)))} samples per pair do not go together")
    if several and best is None:
        raise SettingsError(
            f"there are {several.pop()} samples per pair: say with --best COLUMN by which column one is chosen"
        )
    return several.pop() if several else 1


def _texts(file: ColumnFile) -> int:
    """How many texts of a pair the file is about: its lines, but for passes over the same text."""
    passes = file.head["settings"].get("passes", 1)
    return file.samples // passes if isinstance(passes, int) and passes > 0 else file.samples


def of_texts(rows: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """One line per text of a pair: the passes of a scorer over one text become their mean, of those that gave a number;
    of anything else the first counts."""
    if not any("pass" in row for row in rows):
        return list(rows)
    texts: dict[Any, list[dict[str, Any]]] = {}
    for row in rows:
        texts.setdefault(row.get("caption", 0), []).append(row)
    merged = []
    for passes in texts.values():
        line = {name: value for row in reversed(passes) for name, value in row.items()}
        for name, value in line.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                line[name] = fmean(row[name] for row in passes if isinstance(row.get(name), int | float))
        merged.append(line)
    return merged


def _source(files: Sequence[ColumnFile], column: str, where: str) -> tuple[int, str]:
    """(which file, name in it); -1 for a column of the pair itself.

    A name without a file is that of the one file whose first line has it."""
    stem, dot, name = column.rpartition(".")
    stems = [file.path.name.removesuffix(".jsonl") for file in files]
    if dot:
        if stems.count(stem) != 1:
            raise SettingsError(f"{where!r}: no file of columns is called {stem}.jsonl (there are {', '.join(stems)})")
        return stems.index(stem), name
    if column in OF_THE_PAIR:
        return -1, column
    having = [i for i, file in enumerate(files) if column in names_of(file)]
    if len(having) != 1:
        whose = " and ".join(f"{stems[i]}.{column}" for i in having)
        there = ", ".join((*OF_THE_PAIR, *sorted({name for file in files for name in names_of(file)})))
        none = f"no file of columns has {column} (there are {there})"
        raise SettingsError(f"{where!r}: {f'several files have it, say which: {whose}' if having else none}")
    return having[0], column


_LOOKED_AT = 1000  # pairs in which a column must appear


def names_of(file: ColumnFile) -> set[str]:
    """The names of the columns in the file's first pairs."""
    names: set[str] = set()
    for number, rows in enumerate(file):
        if number == _LOOKED_AT:
            break
        for row in rows:
            names |= row.keys()
    return names - {"id", "sample"}


def _best_sample(rows: Sequence[dict[str, Any]], name: str) -> int:
    """The first sample of the highest value."""
    scored = [(row[name], -i) for i, row in enumerate(rows) if isinstance(row.get(name), int | float)]
    return -max(scored)[1] if scored else 0
