"""What a search for duplicates found: a line of JSON for each, and a page with the pictures side by side."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from editcaption_mega.data.duplicates.duplicate_search import EMBEDDED, KINDS, Duplicate, Duplicates, SearchedSet
from editcaption_mega.files import replacing

from .picture_sheet import PictureSheet, Section, ShownRow, shown_pair, write_picture_sheet

SHARED = "a picture of another pair"


def named_kind(duplicate: Duplicate) -> str:
    """In words that are the same for every pair."""
    sides = [side for side, alike in zip(("source", "target"), duplicate.sides, strict=True) if alike]
    if len(sides) < 2:
        return f"{SHARED}: its {sides[0]}, {duplicate.kind}"
    return duplicate.kind + (", source and target swapped" if duplicate.swapped else "")


def write_duplicate_rows(path: Path, sets: Sequence[SearchedSet], duplicates: Duplicates) -> None:
    """{"set", "id", "other_set", "other_id", "kind", "swapped", "difference"} a line, then pairs that share a picture
    (with "sides"), then those whose source is their target ({"set", "id", "kind"}). Raises OSError."""
    with replacing(path) as file:
        for row in _rows(sets, duplicates):
            file.write(json.dumps(row, ensure_ascii=False) + "\n")


def _rows(sets: Sequence[SearchedSet], duplicates: Duplicates) -> Iterator[dict[str, Any]]:
    for d in [*duplicates.pairs, *duplicates.shared]:
        row = {"set": sets[d.set].name, "id": sets[d.set].shards.ids[d.place]}
        row |= {"other_set": sets[d.other_set].name, "other_id": sets[d.other_set].shards.ids[d.other_place]}
        shared = all(d.sides)
        row |= {"kind": d.kind if shared else f"{SHARED}: {d.kind}"}
        more = {} if shared else {"sides": [s for s, alike in zip(("source", "target"), d.sides, strict=True) if alike]}
        yield row | {"swapped": d.swapped, "difference": round(d.difference, 2)} | more
    for k, place in duplicates.unchanged:
        yield {"set": sets[k].name, "id": sets[k].shards.ids[place], "kind": "source and target are the same picture"}


def write_duplicates_page(path: Path, sets: Sequence[SearchedSet], duplicates: Duplicates, limit: int) -> None:
    """limit: rows of each section. Raises OSError."""
    touched = duplicates.of_evaluation(sets)
    within = [d for d in duplicates.pairs if d not in set(touched)]
    facts = [
        (f"{sum(len(s.marks) for s in sets):,}", "pairs compared", False),
        (f"{len(touched):,}", "of an evaluation set in another set", bool(touched)),
        (f"{len(duplicates.shared):,}", "of an evaluation set share one picture", False),
        (f"{len(within):,}", "twice otherwise", False),
        (f"{len(duplicates.unchanged):,}", "with source and target alike", bool(duplicates.unchanged)),
    ]
    of_kind = {kind: [d for d in within if d.kind == kind] for kind in (*KINDS, EMBEDDED)}
    sections = [
        _section("Evaluation pairs in other sets", sets, touched, limit),
        _section("Evaluation pairs that share a picture", sets, duplicates.shared, limit),
        *(_section(kind.capitalize(), sets, of_this, limit) for kind, of_this in of_kind.items() if of_this),
        Section(
            "Source and target are the same picture",
            (ShownRow([shown_pair(sets[k].shards, i, sets[k].name)]) for k, i in duplicates.unchanged[:limit]),
            _cut(len(duplicates.unchanged), limit),
        ),
    ]
    table = _counts(sets, [*duplicates.pairs, *duplicates.shared])
    sheet = PictureSheet("Pairs that are there twice", facts, sections, [("Sets", table)])
    write_picture_sheet(path, sheet)


def _section(title: str, sets: Sequence[SearchedSet], duplicates: Sequence[Duplicate], limit: int) -> Section:
    worst = sorted(duplicates, key=lambda d: d.difference)[:limit]
    return Section(title, _side_by_side(sets, worst), _cut(len(duplicates), limit))


def _side_by_side(sets: Sequence[SearchedSet], duplicates: Iterable[Duplicate]) -> Iterator[ShownRow]:
    for d in duplicates:
        mine, other = sets[d.set], sets[d.other_set]
        words = f"{named_kind(d)} (difference {d.difference:.1f} of 255)"
        both = [shown_pair(mine.shards, d.place, mine.name), shown_pair(other.shards, d.other_place, other.name)]
        yield ShownRow(both, words)


def _cut(count: int, limit: int) -> str:
    return f"The {limit:,} most alike of {count:,}." if count > limit else ""


def _counts(sets: Sequence[SearchedSet], duplicates: Sequence[Duplicate]) -> list[list[str]]:
    counts = Counter((d.set, d.other_set, named_kind(d)) for d in duplicates)
    rows = [["set", "in", "as", "pairs"]]
    for (mine, other, kind), count in sorted(counts.items(), key=lambda item: (item[0][:2], -item[1])):
        rows.append([sets[mine].name, sets[other].name, kind, f"{count:,}"])
    return rows
