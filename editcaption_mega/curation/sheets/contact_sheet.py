"""A sample of a folder of shards to look through, what is wrong with it first."""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data.importers.quota import QUOTA
from editcaption_mega.data.shards.reader import ShardReader

from .picture_sheet import PictureSheet, Section, ShownRow, shown_pair, write_picture_sheet


@dataclass(frozen=True)
class ContactSheet:
    """What a check said. problems, warnings: sentences by id; categories: how many pairs of each; lengths: (text,
    pairs, mean, longest, its id) in tokens."""

    shards: ShardReader
    problems: Mapping[str, Sequence[str]]
    warnings: Mapping[str, Sequence[str]]
    categories: Mapping[str, int]
    lengths: Sequence[tuple[str, int, float, int, str]] = ()


def write_contact_sheet(path: Path, sheet: ContactSheet, count: int, seed: int) -> None:
    """count: pairs in all: those with problems, then those with warnings, then others drawn by the seed. Raises
    OSError."""
    ids = sheet.shards.ids
    place_of = {identity: place for place, identity in enumerate(ids)}
    wrong = [place_of[name] for name in sheet.problems if name in place_of][:count]
    warned = [place_of[name] for name in sheet.warnings if name not in sheet.problems]
    doubtful = warned[: count - len(wrong)]
    marked = {place_of[name] for name in (*sheet.problems, *sheet.warnings) if name in place_of}
    rest = [place for place in range(len(ids)) if place not in marked]
    drawn = sorted(random.Random(seed).sample(rest, min(len(rest), count - len(wrong) - len(doubtful))))
    facts = [
        (f"{len(ids):,}", "pairs", False),
        (f"{len(sheet.problems):,}", "with problems", bool(sheet.problems)),
        (f"{len(sheet.warnings):,}", "with warnings", False),
    ]
    sections = [
        Section("Problems", _rows(sheet, wrong), _part_of(len(wrong), len(sheet.problems))),
        Section("Warnings", _rows(sheet, doubtful), _part_of(len(doubtful), len(warned))),
        Section(
            "A sample of the others", _rows(sheet, drawn), f"{len(drawn):,} of {len(rest):,}, drawn with seed {seed}."
        ),
    ]
    total = max(1, sum(sheet.categories.values()))
    quota = [["category", "share", "paper", "pairs"]]
    for name, share in QUOTA.items():
        pairs = sheet.categories.get(name, 0)
        quota.append([name, f"{pairs / total:.1%}", f"{share:.0%}", f"{pairs:,}"])
    tables = [("Categories", quota)]
    if sheet.lengths:
        rows = [[name, longest, f"{mean:.1f}", f"{most:,}"] for name, _, mean, most, longest in sheet.lengths]
        tables.append(("Tokens", [["text", "longest of", "mean", "most"], *rows]))
    title = f"{', '.join(directory.name for directory in sheet.shards.directories)}: a contact sheet"
    write_picture_sheet(path, PictureSheet(title, facts, sections, tables))


def _rows(sheet: ContactSheet, places: Sequence[int]) -> Iterator[ShownRow]:
    for place in places:
        name = sheet.shards.ids[place]
        remarks = [*sheet.problems.get(name, ()), *sheet.warnings.get(name, ())]
        yield ShownRow([shown_pair(sheet.shards, place, "", remarks)])


def _part_of(shown: int, count: int) -> str:
    return f"{shown:,} of {count:,}." if shown < count else ""
