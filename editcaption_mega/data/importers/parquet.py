"""Public sets that come as parquet files with the pictures inside, as on the Hugging Face hub.

A pair's id is the set's name and the row's number over all files in the order of their names, so a list of ids can be
drawn and published without the data. The set's own columns are kept in the provenance."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from editcaption_mega.data.importers.rows import (
    Candidate,
    Importer,
    ImportOptions,
    InputError,
    Rejected,
)
from editcaption_mega.records import EditPair

ROWS_AT_ONCE = 16  # pictures in memory


@dataclass(frozen=True)
class Columns:
    """Where a set keeps what. Of `instruction` the first that is there and not empty counts."""

    name: str
    source: str
    target: str
    instruction: tuple[str, ...]
    edit_type: str | None
    category: str | None  # of every row; None: the set does not say, so the user must
    kept: tuple[str, ...]
    licence: str


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


def _importer(columns: Columns) -> Importer:
    def read(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
        files = _files(path, columns)
        category = options.category or columns.category
        if category is None:
            raise InputError(
                f"--format {columns.name} does not say what kind of edits it holds: give --category semantic, "
                "stylistic or structural"
            )
        number = 0
        for file in files:
            for batch in file.iter_batches(ROWS_AT_ONCE):
                for row in batch.to_pylist():
                    number += 1
                    yield _row(number, row, columns, category)

    def count(path: str, options: ImportOptions) -> int:
        return sum(file.metadata.num_rows for file in _files(path, columns))

    return Importer(columns.name, "a parquet file or a folder of them", read, count)


def _files(path: str, columns: Columns) -> list:
    """The open parquet files. Raises InputError for a path or a file that cannot be such a set."""
    import pyarrow.parquet as parquet
    from pyarrow import ArrowException

    root = Path(path)
    if not root.exists():
        raise InputError(f"{path}: no such file or folder")
    paths = sorted(root.rglob("*.parquet")) if root.is_dir() else [root]
    if not paths:
        raise InputError(f"{path}: expected parquet files in this folder, found none")
    files = []
    for one in paths:
        try:
            file = parquet.ParquetFile(one)
        except (ArrowException, OSError) as error:
            raise InputError(f"{one} is not a readable parquet file: {str(error).splitlines()[0]}") from None
        needed = {columns.source, columns.target} | ({columns.edit_type} if columns.edit_type else set())
        missing = sorted(needed - set(file.schema_arrow.names))
        if missing:
            raise InputError(
                f"{one} has no column {', '.join(missing)}: expected those of {columns.name}, found "
                f"{', '.join(file.schema_arrow.names)}"
            )
        files.append(file)
    return files


def _row(number: int, row: dict, columns: Columns, category: str) -> Candidate | Rejected:
    identity = f"{columns.name}-{number:06d}"
    try:
        pictures = [_picture(row[name], name) for name in (columns.source, columns.target)]
        instruction = next((row[name] for name in columns.instruction if row.get(name)), None)
        fields = {
            "id": identity,
            "category": category,
            "edit_type": str(row[columns.edit_type]) if columns.edit_type else columns.name,
            "provenance": {
                "source": columns.name,
                "licence": columns.licence,
                "row": number,
                **{name: row[name] for name in columns.kept if row.get(name) is not None},
            },
        }
        if instruction is not None:
            fields["instruction"] = instruction
        return Candidate(number, EditPair.from_json(fields, where=f"row {number}"), *pictures)
    except ValueError as error:
        return Rejected(number, identity, str(error).removeprefix(f"row {number}: "))


def _picture(value: object, name: str) -> bytes:
    data = value.get("bytes") if isinstance(value, dict) else value
    if not isinstance(data, bytes) or not data:
        raise ValueError(f"column {name!r} holds no picture")
    return data


IMPORTERS = tuple(_importer(columns) for columns in (BYTEMORPH, HQ_EDIT, MAGICBRUSH))
