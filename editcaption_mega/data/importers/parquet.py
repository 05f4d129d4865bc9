"""Public sets that come as parquet files with the pictures inside, as on the Hugging Face hub.

A pair's id is the set's name and the row's number over all files in the order of their names, so a list of ids can be
drawn and published without the data. The set's own columns are kept in the provenance."""

import datetime
import decimal
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
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
from editcaption_mega.files import parse_json
from editcaption_mega.records import EditPair, not_json, shown
from editcaption_mega.words import one_line

ROWS_AT_ONCE = 16  # pictures in memory
_MOST_BYTES = 64  # of a binary cell that goes into the provenance: a digest, not a picture


@dataclass(frozen=True)
class Columns:
    """Where a set keeps what. Of `instruction` the first that is there and not empty counts."""

    name: str
    source: str
    target: str
    instruction: tuple[str, ...]
    edit_type: str | None
    category: str | None  # of every row; None: the set does not say, so the user must
    provenance: tuple[str, ...]  # columns that go into it
    license: str
    record: str | None = None  # holds the whole record as JSON, and the other columns say nothing more

    @property
    def needs_category(self) -> bool:
        return self.category is None and self.record is None

    def all(self) -> list[str]:
        """Every column that is read."""
        others = [name for name in (self.edit_type, self.record) if name]
        return list(dict.fromkeys((self.source, self.target, *self.instruction, *others, *self.provenance)))


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
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    try:
        file = parquet.ParquetFile(path)
        names = file.schema_arrow.names
    except (ArrowException, OSError, ValueError, TypeError, MemoryError) as error:
        reason = one_line(str(error)) or type(error).__name__
        raise InputError(f"{path} is not a readable parquet file: {reason}") from None
    needed = {columns.source, columns.target} | {name for name in (columns.edit_type, columns.record) if name}
    if missing := sorted(needed - set(names)):
        file.close()
        raise InputError(
            f"{path} has no column {', '.join(missing)}: expected those of {columns.name}, found "
            f"{', '.join(map(shown, names))[:500]}"
        )
    if twice := sorted(name for name in columns.all() if names.count(name) > 1):
        file.close()
        raise InputError(f"{path} has two columns {', '.join(twice)}: rename one of each")
    return file


def _rows(file: Any, path: Path, first: int, columns: Columns, category: str) -> Iterator[Candidate | Rejected]:
    """The rows of one file, numbered from `first`. What a damaged row group does not give is one rejection."""
    from pyarrow import ArrowException

    names = [name for name in columns.all() if name in file.schema_arrow.names]
    for group in range(file.num_row_groups):
        rows = file.metadata.row_group(group).num_rows
        done = 0
        try:
            for batch in file.iter_batches(ROWS_AT_ONCE, row_groups=[group], columns=names):
                for i in range(batch.num_rows):
                    done += 1
                    yield _row(first + done - 1, {name: batch.column(name)[i] for name in names}, columns, category)
        except (ArrowException, OSError, MemoryError) as error:
            reason = one_line(str(error)) or type(error).__name__
            lost = max(1, rows - done)
            where = f"{lost} row(s) of {path.name} can't be read (row group {group} is damaged: {reason})"
            yield Rejected(first + done, None, where, lost)
        first += rows


def _row(number: int, row: dict[str, Any], columns: Columns, category: str) -> Candidate | Rejected:
    """A row from its cells (pyarrow scalars)."""
    identity = f"{columns.name}-{number:06d}"
    try:
        pictures = [_picture(_value(row, name), name) for name in (columns.source, columns.target)]
        if columns.record:
            pair = _recorded(_value(row, columns.record), number)
            return Candidate(number, pair, pictures[0], pictures[1])
        instructions = [_value(row, name) for name in columns.instruction if name in row]
        fields = {
            "id": identity,
            "category": category,
            "edit_type": columns.name,
            "provenance": {"source": columns.name, "licence": columns.license, "row": number}
            | _provenance(row, columns),
        }
        if columns.edit_type:
            fields["edit_type"] = _value(row, columns.edit_type)
            if fields["edit_type"] is None:
                raise ValueError(f"column {columns.edit_type!r} is empty")
        instructions = [text for text in instructions if text is not None and text != "" and not _is_blank(text)]
        if instructions:
            fields["instruction"] = instructions[0]
        source, target = pictures
        return Candidate(number, EditPair.from_json(fields, where=f"row {number}"), source, target)
    except ValueError as error:
        return Rejected(number, identity, str(error).removeprefix(f"row {number}: "))


def _recorded(cell: object, number: int) -> EditPair:
    if not isinstance(cell, str):
        raise ValueError(f"column 'record' holds {type(cell).__name__}, expected the pair's record as JSON")
    return EditPair.from_json(parse_json(cell), where=f"row {number}")


def _provenance(row: dict[str, Any], columns: Columns) -> dict[str, Any]:
    """The columns that go into the provenance, in JSON form; "dropped" says why others do not."""
    values, dropped = {}, {}
    for name in columns.provenance:
        try:
            value = json_form(_value(row, name) if name in row else None)
            if problem := not_json(value):
                raise ValueError(problem)
        except ValueError as error:
            dropped[name] = str(error)
            continue
        if value is not None:
            values[name] = value
    return values | ({"dropped": dropped} if dropped else {})


def json_form(value: Any) -> Any:
    """A cell as JSON has it: dates and times in ISO form, decimals and bytes as text. Raises ValueError for others."""
    if isinstance(value, dict):
        return {str(key): json_form(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [json_form(inner) for inner in value]
    if isinstance(value, datetime.date | datetime.time):
        return value.isoformat()
    if isinstance(value, datetime.timedelta):
        return value.total_seconds()
    if isinstance(value, decimal.Decimal | uuid.UUID):
        return str(value)
    if isinstance(value, bytes):
        if len(value) > _MOST_BYTES:
            raise ValueError(f"{len(value)} bytes that are no text")
        return value.hex()
    return value


def _value(row: dict[str, Any], name: str) -> Any:
    """The cell as a Python value. Raises ValueError where it has none (text that is not UTF-8, a year 300,000)."""
    from pyarrow import ArrowException

    try:
        return row[name].as_py()
    except (ArrowException, ValueError, OverflowError, TypeError, NotImplementedError) as error:
        raise ValueError(f"column {name!r} can't be read ({one_line(str(error))})") from None


def _is_blank(text: Any) -> bool:
    return isinstance(text, str) and not text.strip()


def _picture(value: object, name: str) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes) and data:
        return data
    path = value.get("path") if isinstance(value, dict) and data is None else value
    if isinstance(path, str) and path:
        raise ValueError(f"column {name!r} holds no picture, only the path {shown(path)}: embed the pictures")
    raise ValueError(f"column {name!r} holds no picture")


IMPORTERS = tuple(_importer(columns) for columns in (BYTEMORPH, HQ_EDIT, MAGICBRUSH, EXPORTED))
