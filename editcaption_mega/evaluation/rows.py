"""Rows of the evaluation as files: one JSON object per line."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Protocol

from editcaption_mega.records import RecordError
from editcaption_mega.records.evaluation import Row


class Writable(Protocol):
    def to_json(self) -> dict[str, Any]: ...


def write_rows(path: str | Path, rows: Iterable[Writable]) -> None:
    """Write all rows, or nothing: a reader never sees half a file. Equal rows give equal bytes."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f"{path.name}.{os.getpid()}.partial")  # parts of a run may write at once
    with open(temporary, "w", encoding="utf-8") as file:
        file.writelines(json.dumps(row.to_json()) + "\n" for row in rows)
    os.replace(temporary, path)


def read_rows[R: Row](path: str | Path, kind: type[R]) -> list[R]:
    """Read what `write_rows` wrote. Raises ValueError (RecordError) that names the file, the line and the problem."""
    path = Path(path)
    if not path.is_file():
        raise ValueError(f"{path} does not exist: expected a file with one {kind.__name__} per line")
    rows = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{path}, line {number}"
            try:
                row = json.loads(line.decode("utf-8"))
            except (ValueError, RecursionError):
                raise RecordError(f"{where}: expected one JSON object, found {line[:40]!r}") from None
            rows.append(kind.from_json(row, where=where))
    return rows
