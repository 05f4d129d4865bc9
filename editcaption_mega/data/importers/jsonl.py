"""The plain format: one JSON object a line, the fields of `EditPair` plus "source" and "target" (paths)."""

import json
from collections.abc import Iterator
from pathlib import Path

from editcaption_mega.data.importers.rows import (
    Candidate,
    Importer,
    ImportOptions,
    Rejected,
    input_file,
    read_image_file,
)
from editcaption_mega.records import EditPair

_BOM = b"\xef\xbb\xbf"


def read_rows(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    """Yield one row per line that isn't blank. Image paths are relative to the JSONL, or absolute.

    Rejected, with the line number: not UTF-8, not JSON, breaking the schema, an image path absent or unreadable.
    Raises InputError if there is no such file."""
    folder = Path(path).parent
    with open(input_file(path), "rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(_BOM) if number == 1 else line
            if line.strip():
                yield _row(number, line, folder)


def count_rows(path: str, options: ImportOptions) -> int:
    """The number of lines that aren't blank."""
    with open(input_file(path), "rb") as file:
        return sum(1 for line in file if line.strip())


def _row(number: int, line: bytes, folder: Path) -> Candidate | Rejected:
    identity = None
    try:
        row = _object(line)
        identity = str(row["id"]) if "id" in row else None
        paths = {which: _path(row.pop(which, None), which) for which in ("source", "target")}
        pair = EditPair.from_json(row, where=f"line {number}")
        source, target = (read_image_file(folder / paths[which], which) for which in ("source", "target"))
    except ValueError as error:
        return Rejected(number, identity, str(error).removeprefix(f"line {number}: "))
    return Candidate(number, pair, source, target)


def _object(line: bytes) -> dict:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start} of the line): save the file as UTF-8") from None
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error.msg} at column {error.colno})") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    if not isinstance(row, dict):
        raise ValueError(f"expected a JSON object, found {type(row).__name__}")
    return row


def _path(value: object, which: str) -> str:
    if not isinstance(value, str) or not value:
        found = "is missing" if value is None else f"is {value!r}"
        raise ValueError(f"field {which!r} {found}: give the path of the {which} image, relative to the JSONL")
    return value


IMPORTER = Importer(
    "jsonl", "a JSONL file, one pair a line, with 'source' and 'target' image paths", read_rows, count_rows
)
