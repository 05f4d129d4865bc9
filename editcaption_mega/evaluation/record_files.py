"""Files of the evaluation's records: one JSON object per line."""

import json
import os
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Protocol

from editcaption_mega.files import parse_json, replacing
from editcaption_mega.records import RecordError
from editcaption_mega.records.evaluation import EvaluationRecord


class Writable(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def write_records(path: str | Path, rows: Iterable[Writable]) -> None:
    """Write all rows, or nothing: a reader never sees half a file. Equal rows give equal bytes."""
    os.makedirs(Path(path).parent, exist_ok=True)
    with replacing(path) as file:
        file.writelines(json.dumps(row.to_json()) + "\n" for row in rows)


def read_records[R: EvaluationRecord](path: str | Path, kind: type[R]) -> list[R]:
    """What `write_records` wrote. Raises ValueError (RecordError) that names the file, the line and the problem."""
    return [kind.from_json(row, where=where) for where, row in read_lines(path, kind.__name__)]


def read_lines(path: str | Path, what: str) -> Iterator[tuple[str, Any]]:
    """(file and line, value) of each line. Raises ValueError (RecordError) for no file and for what is not JSON."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a file with one {what} per line")
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                yield where, parse_json(line)
            except ValueError as error:
                raise RecordError(f"{where}: expected one JSON object, found {line[:40]!r} ({error})") from None
