"""Any table: a file or a folder of parquet, Arrow, CSV, JSONL, JSON or WebDataset, with a map of its columns, or as a
public set that is listed in sets.py."""

import os
import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from editcaption_mega.data.importers.candidates import Candidate, Importer, ImportOptions, InputError, Rejected
from editcaption_mega.data.importers.remote import Address, here
from editcaption_mega.data.importers.sets import SETS
from editcaption_mega.data.importers.table_candidates import Candidates
from editcaption_mega.data.importers.table_cells import Lost, Row, place_columns
from editcaption_mega.data.importers.table_columns import Columns
from editcaption_mega.data.importers.table_files import TableKind, table_files
from editcaption_mega.records import shown

MAPPED = ("source", "target", "instruction", "edit_type", "category", "id")  # what --map can place
_INPUT = "a file or a folder of parquet, Arrow, CSV, TSV, JSONL, JSON or WebDataset tars, or addresses of such files"


def mapped_columns(options: ImportOptions, path: str) -> Columns:
    """The columns that the options place. Raises InputError for a map that names no pictures, or what is no place."""
    places = dict(options.columns or {})
    if unknown := sorted(set(places) - set(MAPPED)):
        raise InputError(f"--map names {', '.join(map(shown, unknown))}: expected some of {', '.join(MAPPED)}")
    if lacking := [name for name in ("source", "target") if not places.get(name)]:
        raise InputError(
            f"--format table needs --map for {' and '.join(lacking)}, such as --map source=input_image,"
            f"target=edited_image,instruction=prompt{_columns_here(path)}"
        )
    instruction = places.get("instruction")
    stem = re.split(r"[?#]", path)[0].rstrip("/") if "://" in path else str(Path(path).resolve())
    name = re.sub(r"[^A-Za-z0-9_\-]+", "-", options.name or Path(stem).stem).strip("-") or "table"
    return Columns(
        name, places["source"], places["target"], tuple(instruction.split("|")) if instruction else (),
        places.get("edit_type"), license=options.license or "", id=places.get("id"), categories=places.get("category"),
        keep_others=True, by_edit_type="edit_type" in places,
    )  # fmt: skip


def _columns_here(path: str) -> str:
    kind, files = table_files(path)
    with here(files[0]) as file:
        first = () if kind.columns else (row for row in kind.rows(file) if isinstance(row, Row))
        names = kind.columns(file) if kind.columns else next((row.names for row in first), [])
    return f" (columns here: {', '.join(map(shown, names))[:500]})"


def _read(columns: Columns, path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    kind, files = table_files(path)
    _check_options(columns, options)
    for file in files:
        if isinstance(file, Path):
            _check_columns(file, kind, columns)
    candidates = Candidates(
        columns,
        options.category or "",
        language=options.language,
        turns=options.turns or "each",
        answers=Path(options.answers) if options.answers else None,
    )
    number = 0
    for file in files:
        pictures = _pictures(file, columns, options)
        with here(file) as local:
            if local != file:
                _check_columns(local, kind, columns)
            for row in kind.rows(local):
                if isinstance(row, Lost):
                    yield Rejected(number + 1, None, row.reason, row.rows)
                    number += row.rows
                    continue
                number += 1
                yield from candidates.of(number, row, pictures, file.name)


def _pictures(file: Path | Address, columns: Columns, options: ImportOptions) -> Path | None:
    """Where paths of pictures begin."""
    if options.images:
        return Path(options.images)
    return Path(os.path.normpath(file.parent / columns.pictures)) if isinstance(file, Path) else None


def _check_options(columns: Columns, options: ImportOptions) -> None:
    """Raises InputError for a set that needs what is not given."""
    all_turns_alone = columns.turns is not None and options.turns == "first-to-last"
    if columns.needs_category and not options.category and not all_turns_alone:
        raise InputError(
            f"--format {columns.name if _is_public(columns) else 'table'} does not say what kind of edits it holds: "
            "give --category semantic, stylistic or structural, or map a column of edit types (--map edit_type=COLUMN)"
        )
    if columns.answer and not options.answers:
        raise InputError(
            f"--format {columns.name} is a benchmark of editors, whose rows have no target picture: name the folder of "
            f"an editor's answers to it, --answers DIR with DIR/{columns.answer}"
        )


def _is_public(columns: Columns) -> bool:
    return any(columns.name == entry.name for entry in SETS)


def _check_columns(file: Path, kind: TableKind, columns: Columns) -> None:
    """Raises InputError where a column is not there, or there twice."""
    if kind.columns is None:
        return
    names = kind.columns(file)
    needed = columns.needed()
    if len(columns.instruction) == 1 and columns.turns is None:
        needed.append(place_columns(columns.instruction[0]))
    if missing := [" or ".join(sorted(either)) for either in needed if not either & set(names)]:
        there = f"found {', '.join(map(shown, names))[:500]}" if names else "it is empty"
        raise InputError(f"{file} has no column {', '.join(missing)}: {there}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{file} has two columns {', '.join(map(shown, twice))}: rename one of each")


def _count(path: str) -> int | None:
    kind, files = table_files(path)
    counts = [kind.count(file) if isinstance(file, Path) else None for file in files]
    return None if None in counts else sum(count for count in counts if count is not None)


def _importer(columns: Columns) -> Importer:
    def read(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
        return _read(columns if options.license is None else replace(columns, license=options.license), path, options)

    def count(path: str, options: ImportOptions) -> int | None:
        return _count(path)

    return Importer(
        columns.name, _INPUT, read, count, takes_category=True, takes_turns=columns.turns is not None,
        takes_answers=columns.answer is not None, needs_category=columns.needs_category,
    )  # fmt: skip


def _read_mapped(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    return _read(mapped_columns(options, path), path, options)


def _count_mapped(path: str, options: ImportOptions) -> int | None:
    mapped_columns(options, path)
    return _count(path)


IMPORTER = Importer("table", _INPUT, _read_mapped, _count_mapped, takes_category=True, takes_map=True)
IMPORTERS = (IMPORTER, *map(_importer, SETS))
