"""Any table: a file or a folder of parquet, Arrow, CSV, JSONL, JSON or WebDataset, with a map of its columns.

Public sets with known columns are entries of `SETS`; another one is one more entry."""

import re
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

from editcaption_mega.data.importers.candidates import Candidate, Importer, ImportOptions, InputError, Rejected
from editcaption_mega.data.importers.table_columns import Columns, Row, candidate_of, column_of
from editcaption_mega.data.importers.table_files import Lost, table_files
from editcaption_mega.records import shown

MAPPED = ("source", "target", "instruction", "edit_type", "category", "id")  # what --map can place
_INPUT = "a file or a folder of parquet, Arrow, CSV, TSV, JSONL, JSON or WebDataset tars"

# Columns as their authors publish them; the edit type says the category (taxonomy.yaml) unless --category does.
SETS = (
    Columns(
        "anyedit", "image_file", "edited_file", ("edit_instruction",), "edit_type", None, (), "CC-BY-4.0",
        keep_others=True, by_edit_type=True,
    ),
    Columns(
        "instructpix2pix", "original_image", "edited_image", ("edit_prompt",), None, None,
        ("original_prompt", "edited_prompt"), "",
    ),
)  # fmt: skip


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
    name = re.sub(r"[^A-Za-z0-9_\-]+", "-", options.name or Path(path).resolve().stem).strip("-") or "table"
    return Columns(
        name, places["source"], places["target"], tuple(instruction.split("|")) if instruction else (),
        places.get("edit_type"), None, (), options.license or "",
        id=places.get("id"), categories=places.get("category"), keep_others=True, by_edit_type="edit_type" in places,
    )  # fmt: skip


def _columns_here(path: str) -> str:
    kind, files = table_files(path)
    names = (
        kind.columns(files[0])
        if kind.columns
        else next((r.names for r in kind.rows(files[0]) if isinstance(r, Row)), [])
    )
    return f" (columns here: {', '.join(map(shown, names))[:500]})"


def _read(columns: Columns, path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    kind, files = table_files(path)
    if columns.needs_category and not options.category:
        raise InputError(
            f"--format {columns.name if columns in SETS else 'table'} does not say what kind of edits it holds: give "
            "--category semantic, stylistic or structural, or map a column of edit types (--map edit_type=COLUMN)"
        )
    if kind.columns:
        for file in files:
            _check_columns(file, kind.columns(file), columns)
    number = 0
    for file in files:
        folder = Path(options.images) if options.images else file.parent
        for row in kind.rows(file):
            if isinstance(row, Lost):
                yield Rejected(number + 1, None, row.reason, row.rows)
                number += row.rows
                continue
            number += 1
            yield candidate_of(number, row, columns, options.category or "", folder)


def _check_columns(file: Path, names: list[str], columns: Columns) -> None:
    """Raises InputError where a column is not there, or there twice."""
    places = [columns.source, columns.target, *(columns.instruction[:1] if len(columns.instruction) == 1 else ())]
    places += [place for place in (columns.edit_type, columns.id, columns.categories) if place]
    if missing := [place for place in places if place not in names and column_of(place) not in names]:
        raise InputError(f"{file} has no column {', '.join(missing)}: found {', '.join(map(shown, names))[:500]}")
    if twice := sorted({name for name in names if names.count(name) > 1}):
        raise InputError(f"{file} has two columns {', '.join(map(shown, twice))}: rename one of each")


def _count(path: str) -> int | None:
    kind, files = table_files(path)
    counts = [kind.count(file) for file in files]
    return None if None in counts else sum(count for count in counts if count is not None)


def _importer(columns: Columns) -> Importer:
    def read(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
        return _read(columns if options.license is None else replace(columns, license=options.license), path, options)

    def count(path: str, options: ImportOptions) -> int | None:
        return _count(path)

    return Importer(columns.name, _INPUT, read, count, takes_category=True)


def _read_mapped(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    return _read(mapped_columns(options, path), path, options)


def _count_mapped(path: str, options: ImportOptions) -> int | None:
    mapped_columns(options, path)
    return _count(path)


IMPORTER = Importer("table", _INPUT, _read_mapped, _count_mapped, takes_category=True, takes_map=True)
IMPORTERS = (IMPORTER, *map(_importer, SETS))
