"""A row of a table as candidates, or why it is none."""

import datetime
import decimal
import re
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from editcaption_mega.data.importers.candidates import Candidate, Rejected, read_image_file
from editcaption_mega.data.importers.languages import language_of
from editcaption_mega.data.importers.table_cells import Row, inner_key, place_columns
from editcaption_mega.data.importers.table_columns import Columns
from editcaption_mega.data.importers.taxonomy import category_of
from editcaption_mega.data.importers.turns import turns_of
from editcaption_mega.files import parse_json
from editcaption_mega.records import EditPair, not_json, shown

_MOST_BYTES = 64  # of a binary cell that goes into the provenance: a digest, not a picture
_MOST_CHARACTERS = 4000  # of a cell that is kept because nothing else was said of it
_OTHER_SIGNS = re.compile(r"[^A-Za-z0-9_\-]")


class Candidates:
    """Makes candidates of the rows of a set.

    category: what the user says of every row; language: which of its texts counts, of `LANGUAGES` (None: the first);
    turns: which pairs of a session (`TURNS`); answers: an editor's pictures, for a set without targets."""

    def __init__(
        self,
        columns: Columns,
        category: str = "",
        *,
        language: str | None = None,
        turns: str = "each",
        answers: Path | None = None,
    ):
        self.columns, self._category, self._language = columns, category, language
        self._turns, self._answers = turns, answers

    def of(self, number: int, row: Row, pictures: Path | None = None, file: str = "") -> Iterator[Candidate | Rejected]:
        """The pairs of a row. pictures: where paths of pictures begin; None: the set holds the pictures themselves.
        file: the name of the table."""
        identity: str | None = None if self.columns.id else f"{self.columns.name}-{number:06d}"
        try:
            identity = self._identity(row) or identity
            type_in_file = self._type_in(file)
            if self.columns.turns is None:
                yield self._pair(number, row, pictures, identity, type_in_file)
                return
            for turn in turns_of(row, self.columns.turns, self._turns):
                name = f"{identity}{turn.suffix}"
                yield self._pair(number, turn.row, pictures, name, turn.edit_type or type_in_file)
        except ValueError as error:
            yield Rejected(number, identity, str(error))

    def _pair(
        self, number: int, row: Row, pictures: Path | None, identity: str | None, edit_type: str | None
    ) -> Candidate | Rejected:
        try:
            source, source_path = self._source(row, pictures)
            target, target_path = self._target(row, pictures)
            if self.columns.record:
                return Candidate(number, _recorded(row[self.columns.record], number), source, target)
            fields = self._fields(number, row, edit_type) | {"id": identity}
            paths = (source_path, target_path) if source_path and target_path else None
            return Candidate(number, EditPair.from_json(fields, where=f"row {number}"), source, target, paths)
        except ValueError as error:
            return Rejected(number, identity, str(error).removeprefix(f"row {number}: "))

    def _identity(self, row: Row) -> str | None:
        if not self.columns.id:
            return None
        value = row[self.columns.id]
        if value is None or value == "":
            raise ValueError(f"column {self.columns.id!r}, which holds the ids, is empty")
        return _OTHER_SIGNS.sub("-", str(value))[:200]

    def _type_in(self, file: str) -> str | None:
        if self.columns.type_in_file is None:
            return None
        match = re.fullmatch(self.columns.type_in_file, file)
        return match[1] if match else file

    def _source(self, row: Row, pictures: Path | None) -> tuple[bytes, str | None]:
        try:
            return _picture(row, self.columns.source, "source", pictures)
        except ValueError as error:
            raise ValueError(f"{error}{f': {self.columns.mend}' if self.columns.mend else ''}") from None

    def _target(self, row: Row, pictures: Path | None) -> tuple[bytes, str | None]:
        if self.columns.answer is None:
            return _picture(row, self.columns.target, "target", pictures)
        assert self._answers is not None, "a set without targets is read with an editor's answers"
        path = re.sub(r"\{(\w+)\}", lambda match: self._part(row, match[1]), self.columns.answer)
        return read_image_file(self._answers / path, "target"), path

    def _part(self, row: Row, name: str) -> str:
        """One part of the path of an answer. Raises ValueError for what would lead elsewhere."""
        value = {"en": "en", "zh": "cn"}[self._language or "en"] if name == "language" else row[name]
        if not isinstance(value, str | int) or re.search(r"[/\\]|^\.*$", str(value)):
            raise ValueError(f"column {name!r} is {shown(str(value))}: expected a name, for the path of the answer")
        return str(value)

    def _fields(self, number: int, row: Row, edit_type: str | None) -> dict[str, Any]:
        """The fields of the pair, but for its id."""
        columns = self.columns
        provenance = {"source": columns.name, "licence": columns.license, "row": number}
        fields: dict[str, Any] = {
            "edit_type": edit_type or columns.name,
            "provenance": {name: value for name, value in provenance.items() if value != ""}
            | _provenance(row, columns),
        }
        if texts := self._texts(row):
            fields["instruction"] = texts[0]
            if len(texts) > 1 and columns.keep_others:
                fields["provenance"]["other_instructions"] = texts[1:]
        if columns.edit_type and edit_type is None:
            fields["edit_type"] = row[columns.edit_type]
            if fields["edit_type"] is None:
                raise ValueError(f"column {columns.edit_type!r} is empty")
        fields["category"] = self._category or columns.category
        if columns.categories:
            fields["category"] = row[columns.categories]
        if not fields["category"]:
            fields["category"] = category_of(fields["edit_type"])
        return fields

    def _texts(self, row: Row) -> list[Any]:
        """The instructions of a row, the one that counts first. Raises ValueError where none is in the language that is
        asked for."""
        texts = [text for place in self.columns.instruction for text in _texts_of(row[place])]
        texts = list(dict.fromkeys(texts)) if all(isinstance(text, str) for text in texts) else texts
        if self._language is None or not texts:
            return texts
        wanted = [text for text in texts if isinstance(text, str) and language_of(text) == self._language]
        if not wanted:
            raise ValueError(f"no instruction is in the language {self._language!r} that --language asks for")
        return wanted + [text for text in texts if text not in wanted]


def candidate_of(number: int, row: Row, columns: Columns, category: str = "") -> Candidate | Rejected:
    """A row of a set that holds its pictures itself, and whose rows are a pair each."""
    return next(Candidates(columns, category).of(number, row))


def _texts_of(cell: Any) -> list[Any]:
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
    values, dropped = {}, {}
    for name, cell in _kept(row, columns):
        try:
            value = json_form(cell() if callable(cell) else cell)
            if problem := not_json(value):
                raise ValueError(problem)
            if name not in columns.provenance and len(str(value)) > _MOST_CHARACTERS:
                raise ValueError(f"more than {_MOST_CHARACTERS} characters")
        except ValueError as error:
            dropped[name] = str(error)
            continue
        if value is not None and value != {}:
            values[name] = value
    return values | ({"dropped": dropped} if dropped else {})


def _kept(row: Row, columns: Columns) -> Iterator[tuple[str, Any]]:
    """(name, how to get the cell) of what is kept: listed columns, and of others what is read for nothing else."""
    for name in columns.provenance:
        yield name, lambda name=name: row[name]
    if not columns.keep_others:
        return
    places = [p for p in (columns.source, columns.target, *columns.instruction, columns.edit_type, columns.id) if p]
    places += [place for place in (columns.categories, columns.record) if place]
    for name in row.names:
        if name in columns.provenance or (name.startswith("__") and name != "__key__"):
            continue
        used = [place for place in places if name in place_columns(place)]
        if not used:
            yield name, lambda name=name: row[name]
        elif inner := [key for place in used if (key := inner_key(place, name))]:
            yield name, lambda name=name, inner=inner: _rest(row[name], inner)


def _rest(cell: Any, inner: list[str]) -> Any:
    """Of an object that places lead into, what they do not take."""
    return {key: value for key, value in cell.items() if key not in inner} if isinstance(cell, dict) else None


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
    if isinstance(value, list | tuple):
        if len(value) != 1:
            raise ValueError(
                f"column {place!r} holds {len(value)} pictures, expected one: what needs several is no pair, or name "
                f"one with --map, such as {side}={place}[0]"
            )
        value = value[0]
    data = value.get("bytes") if isinstance(value, dict) else value
    if isinstance(data, bytes) and data:
        return data, None
    path = value.get("path") if isinstance(value, dict) and data is None else value
    if isinstance(path, str) and path:
        if folder is not None:
            return read_image_file(folder / path, side), path
        raise ValueError(f"column {place!r} holds no picture, only the path {shown(path)}: embed the pictures")
    raise ValueError(f"column {place!r} holds no picture")
