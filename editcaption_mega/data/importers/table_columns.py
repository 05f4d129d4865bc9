"""Where a set keeps what, and a row of it as a candidate, whatever file the row is from."""

import datetime
import decimal
import re
import uuid
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.importers.candidates import Candidate, Rejected, read_image_file
from editcaption_mega.data.importers.taxonomy import category_of
from editcaption_mega.files import parse_json
from editcaption_mega.records import EditPair, not_json, shown

_MOST_BYTES = 64  # of a binary cell that goes into the provenance: a digest, not a picture
_MOST_CHARACTERS = 4000  # of a cell that is kept because nothing else was said of it
_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]")  # of a path into a cell: .name or [number]


@dataclass(frozen=True)
class Columns:
    """Where a set keeps what. A column is named, or a place inside one is: `meta.prompt`, `images[1]`. Of `instruction`
    the first that is there and not empty counts."""

    name: str
    source: str
    target: str
    instruction: tuple[str, ...]
    edit_type: str | None
    category: str | None  # of every row; None: the set does not say, so the user must, or the edit type does
    provenance: tuple[str, ...]  # columns that go into it
    license: str
    record: str | None = None  # holds the whole record as JSON, and the other columns say nothing more
    id: str | None = None  # holds ids; None: they are the set's name and the row's number
    categories: str | None = None  # holds the category of each row
    keep_others: bool = False  # whatever other columns there are goes into the provenance, too
    by_edit_type: bool = False  # the category follows from the edit type (`taxonomy`)

    @property
    def needs_category(self) -> bool:
        return self.category is None and self.record is None and not self.by_edit_type and self.categories is None

    def needed(self) -> set[str]:
        """The columns that every file must have."""
        places = (self.source, self.target, self.edit_type, self.record, self.id, self.categories)
        return {column_of(place) for place in places if place}

    def read(self) -> list[str]:
        """Every column that is read, others aside."""
        places = (self.source, self.target, *self.instruction, self.edit_type, self.record, self.id, self.categories)
        return list(dict.fromkeys([*(column_of(place) for place in places if place), *self.provenance]))


class Row:
    """The cells of a row by the names of their columns. value: of a column; it raises ValueError where it has none."""

    def __init__(self, names: Iterable[str], value: Callable[[str], Any]):
        self.names, self._value = list(names), value

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Row":
        return cls(values, values.__getitem__)

    def has(self, place: str) -> bool:
        """Whether there is such a column."""
        return place in self.names or column_of(place) in self.names

    def __getitem__(self, place: str) -> Any:
        """What stands there; None where there is nothing. Raises ValueError."""
        if place in self.names:
            return self._value(place)
        column = column_of(place)
        if column not in self.names:
            return None
        value = self._value(column)
        for name, number in _STEP.findall(place[len(column) :]):
            if isinstance(value, Mapping) and name:
                value = value.get(name)
            elif isinstance(value, list | tuple) and number and int(number) < len(value):
                value = value[int(number)]
            else:
                return None
        return value


def column_of(place: str) -> str:
    """The column that a place lies in."""
    return re.split(r"[.\[]", place, maxsplit=1)[0] or place


def candidate_of(
    number: int, row: Row, columns: Columns, category: str = "", pictures_folder: Path | None = None
) -> Candidate | Rejected:
    """A row as a candidate, or why it is none. category: what the user says of every row; pictures_folder: where paths
    of pictures begin; None: the set holds the pictures themselves."""
    identity: str | None = None if columns.id else f"{columns.name}-{number:06d}"
    try:
        if columns.id:
            value = row[columns.id]
            if value is None or value == "":
                raise ValueError(f"column {columns.id!r}, which holds the ids, is empty")
            identity = re.sub(r"[^A-Za-z0-9_\-]", "-", str(value))[:200]
        source, source_path = _picture(row, columns.source, "source", pictures_folder)
        target, target_path = _picture(row, columns.target, "target", pictures_folder)
        if columns.record:
            return Candidate(number, _recorded(row[columns.record], number), source, target)
        fields = _fields(number, row, columns, category) | {"id": identity}
        paths = (source_path, target_path) if source_path and target_path else None
        return Candidate(number, EditPair.from_json(fields, where=f"row {number}"), source, target, paths)
    except ValueError as error:
        return Rejected(number, identity, str(error).removeprefix(f"row {number}: "))


def _fields(number: int, row: Row, columns: Columns, category: str) -> dict[str, Any]:
    """The fields of the pair, but for its id."""
    texts = [text for place in columns.instruction for text in _texts(row[place])]
    provenance = {"source": columns.name, "licence": columns.license, "row": number}
    fields: dict[str, Any] = {
        "edit_type": columns.name,
        "provenance": {name: value for name, value in provenance.items() if value != ""} | _provenance(row, columns),
    }
    if texts:
        fields["instruction"] = texts[0]
        if len(texts) > 1 and columns.keep_others:
            fields["provenance"]["other_instructions"] = texts[1:]
    if columns.edit_type:
        fields["edit_type"] = row[columns.edit_type]
        if fields["edit_type"] is None:
            raise ValueError(f"column {columns.edit_type!r} is empty")
    fields["category"] = category or columns.category
    if columns.categories:
        fields["category"] = row[columns.categories]
    if not fields["category"]:
        fields["category"] = category_of(fields["edit_type"])
    return fields


def _texts(cell: Any) -> list[Any]:
    """What a cell of texts holds: one, or those of a list; blank ones are none."""
    cells = list(cell) if isinstance(cell, list | tuple) else [cell]
    return [text for text in cells if text is not None and text != "" and not _is_blank(text)]


def _is_blank(text: Any) -> bool:
    return isinstance(text, str) and not text.strip()


def _recorded(cell: object, number: int) -> EditPair:
    if not isinstance(cell, str):
        raise ValueError(f"column 'record' holds {type(cell).__name__}, expected the pair's record as JSON")
    return EditPair.from_json(parse_json(cell), where=f"row {number}")


def _provenance(row: Row, columns: Columns) -> dict[str, Any]:
    """The columns that go into the provenance, in JSON form; "dropped" says why others do not."""
    names = list(columns.provenance)
    if columns.keep_others:
        used = set(columns.read())
        names += [name for name in row.names if name not in used and not name.startswith("__")]
    values, dropped = {}, {}
    for name in names:
        try:
            value = json_form(row[name])
            if problem := not_json(value):
                raise ValueError(problem)
            if name not in columns.provenance and len(str(value)) > _MOST_CHARACTERS:
                raise ValueError(f"more than {_MOST_CHARACTERS} characters")
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


def _picture(row: Row, place: str, side: str, folder: Path | None) -> tuple[bytes, str | None]:
    """The bytes of a picture, and the path that it was read from. Raises ValueError."""
    if not row.has(place):
        raise ValueError(f"there is no column {place!r} (columns here: {', '.join(map(shown, row.names))[:300]})")
    value = row[place]
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes) and data:
        return data, None
    path = value.get("path") if isinstance(value, dict) and data is None else value
    if isinstance(path, str) and path:
        if folder is not None:
            return read_image_file(folder / path, side), path
        raise ValueError(f"column {place!r} holds no picture, only the path {shown(path)}: embed the pictures")
    raise ValueError(f"column {place!r} holds no picture")
