"""Rows of CSV, JSONL and JSON files."""

import csv
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from editcaption_mega.data.importers.candidates import InputError
from editcaption_mega.data.importers.jsonl import object_of, rows_of_lines
from editcaption_mega.data.importers.table_cells import Lost, Row
from editcaption_mega.files import parse_json
from editcaption_mega.records import LARGEST_RECORD

_LARGEST_JSON = 4 << 30  # bytes of one JSON document, which is read whole


def csv_rows(path: Path) -> Iterator[Row | Lost]:
    with _csv(path) as reader:
        header: list[str] = next(reader, [])
        while True:
            try:
                cells = next(reader)
            except StopIteration:
                return
            except csv.Error:  # its own words show the signs that it stumbled over
                yield Lost(
                    f"line {reader.line_num} of {path.name} is not valid CSV: a quote inside quotes is written twice"
                )
                continue
            if not cells:
                continue
            if len(cells) != len(header):
                yield Lost(
                    f"line {reader.line_num} of {path.name} has {len(cells)} cells, the first line {len(header)}: a "
                    "cell with a comma or a line's end needs quotes around it"
                )
            elif any(_half(cell) for cell in cells):
                yield Lost(f"line {reader.line_num} of {path.name} is not UTF-8: save the file as UTF-8")
            else:
                yield Row.of({name: cell or None for name, cell in zip(header, cells, strict=True)})


class _csv:
    """A reader of a file of cells between commas, semicolons or tabs. Raises InputError."""

    def __init__(self, path: Path):
        self.path = path

    def __enter__(self) -> Any:
        csv.field_size_limit(LARGEST_RECORD)
        with open(self.path, "rb") as file:
            start = file.read(4096)
        if start.startswith((b"\xff\xfe", b"\xfe\xff")) or b"\0" in start:
            raise InputError(f"{self.path} is UTF-16, as Excel and PowerShell write it: save it as UTF-8")
        first = start.split(b"\n", 1)[0]
        delimiter = max(b",;\t|", key=lambda sign: first.count(bytes([sign])))
        if self.path.suffix.lower() == ".tsv":
            delimiter = ord("\t")
        self.file = open(self.path, encoding="utf-8-sig", errors="surrogateescape", newline="")
        return csv.reader(self.file, delimiter=chr(delimiter), strict=True)

    def __exit__(self, *_: object) -> None:
        self.file.close()


def _half(text: str) -> bool:
    return any("\udc80" <= sign <= "\udcff" for sign in text)


def csv_columns(path: Path) -> list[str]:
    with _csv(path) as reader:
        return next(reader, [])


def csv_count(path: Path) -> int:
    return sum(1 for _ in csv_rows(path))


def jsonl_rows(path: Path) -> Iterator[Row | Lost]:
    for number, line in rows_of_lines(str(path)):
        try:
            yield Row.of(object_of(line))
        except ValueError as error:
            yield Lost(f"line {number} of {path.name}: {error}")


def json_rows(path: Path) -> Iterator[Row | Lost]:
    """The objects of a list, or of an object of objects, whose keys are then the column `key`."""
    for name, item in json_items(path):
        if isinstance(item, dict):
            yield Row.of(item if name is None else {"key": name} | item)
        else:
            yield Lost(f"expected an object for each row of {path.name}, found {type(item).__name__}")


def json_items(path: Path) -> list[tuple[str | None, Any]]:
    if path.stat().st_size > _LARGEST_JSON:
        raise InputError(f"{path} has more than 4 GiB, and a JSON document is read whole: write it as JSONL")
    try:
        document = parse_json(path.read_bytes())
    except ValueError as error:
        raise InputError(f"{path} is {error}") from None
    if isinstance(document, list):
        return [(None, item) for item in document]
    if isinstance(document, dict):
        inner = [value for value in document.values() if isinstance(value, list)]
        if len(inner) == 1 and not any(isinstance(value, dict) for value in document.values()):
            return [(None, item) for item in inner[0]]  # {"data": [..]}
        return list(document.items())
    raise InputError(f"{path} holds {type(document).__name__}, expected a list of objects, or an object of objects")
