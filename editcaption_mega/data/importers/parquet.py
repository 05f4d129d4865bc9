"""Public sets that come as parquet files with the pictures inside, as on the Hugging Face hub.

A pair's id is the set's name and the row's number over all files in the order of their names, so a list of ids can be
drawn and published without the data. The set's own columns are kept in the provenance."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from editcaption_mega.data.importers.candidates import (
    Candidate,
    Importer,
    ImportOptions,
    InputError,
    Rejected,
    input_file,
)
from editcaption_mega.data.importers.table_arrow import open_parquet, parquet_rows
from editcaption_mega.data.importers.table_candidates import candidate_of
from editcaption_mega.data.importers.table_cells import Lost
from editcaption_mega.data.importers.table_columns import Columns
from editcaption_mega.records import shown

BYTEMORPH = Columns(
    "bytemorph", "src_img", "tgt_img", ("edit_prompt_rewrite_instruction", "edit_prompt"), "edit_type", "structural",
    ("image_id", "edit_prompt", "src_img_caption", "tgt_img_caption"), "CC0-1.0",
)  # fmt: skip
HQ_EDIT = Columns(
    "hq-edit", "input_image", "output_image", ("edit",), None, None, ("input", "output", "inverse_edit"),
    "CC-BY-NC-4.0",
)  # fmt: skip
MAGICBRUSH = Columns(
    "magicbrush", "source_img", "target_img", ("instruction",), None, None, ("img_id", "turn_index"), "CC-BY-4.0"
)  # fmt: skip

# What `curate.py export --format parquet` writes.
EXPORTED = Columns("exported", "input_image", "edited_image", (), None, None, (), "", record="record")


def _importer(columns: Columns) -> Importer:
    def read(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
        paths = _paths(path, columns)
        category = options.category or columns.category or ""
        if columns.needs_category and not category:
            raise InputError(
                f"--format {columns.name} does not say what kind of edits it holds: give --category semantic, "
                "stylistic or structural"
            )
        first = 1
        for file_path in paths:
            with _open(file_path, columns) as file:
                yield from _rows(file, file_path, first, columns, category)
                first += file.metadata.num_rows

    def count(path: str, options: ImportOptions) -> int:
        total = 0
        for file_path in _paths(path, columns):
            with _open(file_path, columns) as file:
                total += file.metadata.num_rows
        return total

    described = "a parquet file or a folder of them"
    return Importer(columns.name, described, read, count, needs_category=columns.needs_category)


def _paths(path: str, columns: Columns) -> list[Path]:
    """The parquet files, each looked into. Raises InputError for a path or a file that cannot be such a set."""
    root = Path(path)
    if not root.exists():
        raise InputError(f"{path}: no such file or folder")
    paths = sorted(filter(Path.is_file, root.rglob("*.parquet"))) if root.is_dir() else [input_file(path)]
    if not paths:
        raise InputError(f"{path}: expected parquet files in this folder, found none")
    for file_path in paths:
        _open(file_path, columns).close()
    return paths


def _open(path: Path, columns: Columns) -> Any:
    """The open parquet file. Raises InputError."""
    file = open_parquet(path)
    names = file.schema_arrow.names
    if missing := sorted(" or ".join(sorted(either)) for either in columns.needed() if not either & set(names)):
        file.close()
        raise InputError(
            f"{path} has no column {', '.join(missing)}: expected those of {columns.name}, found "
            f"{', '.join(map(shown, names))[:500]}"
        )
    if twice := sorted(name for name in columns.read() if names.count(name) > 1):
        file.close()
        raise InputError(f"{path} has two columns {', '.join(twice)}: rename one of each")
    return file


def _rows(file: Any, path: Path, first: int, columns: Columns, category: str) -> Iterator[Candidate | Rejected]:
    """The rows of one file, numbered from `first`. What a damaged row group does not give is one rejection."""
    names = [name for name in columns.read() if name in file.schema_arrow.names]
    number = first
    for row in parquet_rows(file, path, names):
        if isinstance(row, Lost):
            yield Rejected(number, None, row.reason, row.rows)
            number += row.rows
            continue
        yield candidate_of(number, row, columns, category)
        number += 1


IMPORTERS = tuple(_importer(columns) for columns in (BYTEMORPH, HQ_EDIT, MAGICBRUSH, EXPORTED))
