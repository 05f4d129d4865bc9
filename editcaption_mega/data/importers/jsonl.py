"""The plain format: one JSON object a line, the fields of `EditPair` plus "source" and "target" (paths)."""

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
from editcaption_mega.files import parse_json
from editcaption_mega.records import LARGEST_RECORD, EditPair, shown

_BOM = b"\xef\xbb\xbf"


def read_rows(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    """Yield one row per line that isn't blank. Image paths are relative to the JSONL, or absolute.

    Rejected, with the line number: not UTF-8, not JSON, breaking the schema, an image path absent or unreadable.
    Raises InputError if there is no such file."""
    folder = Path(path).parent
    for number, line in _lines(path):
        yield _row(number, line, folder)


def count_rows(path: str, options: ImportOptions) -> int:
    """The number of lines that aren't blank."""
    return sum(1 for _ in _lines(path))


def _lines(path: str) -> Iterator[tuple[int, bytes]]:
    """(number, line) of those that aren't blank; of one that is longer than any record only the beginning."""
    with open(input_file(path), "rb") as file:
        number = 0
        while line := file.readline(LARGEST_RECORD + 1):
            number += 1
            rest = line
            while len(rest) > LARGEST_RECORD and not rest.endswith(b"\n"):
                rest = file.readline(LARGEST_RECORD + 1)
            line = line.removeprefix(_BOM) if number == 1 else line
            if line.strip():
                yield number, line


def _row(number: int, line: bytes, folder: Path) -> Candidate | Rejected:
    identity = None
    try:
        row = _object(line)
        identity = str(row["id"])[:200] if "id" in row else None
        paths = {which: _path(row, which) for which in ("source", "target")}
        fields = {name: value for name, value in row.items() if name not in paths}
        pair = EditPair.from_json(fields, where=f"line {number}")
        source, target = (read_image_file(folder / paths[which], which) for which in ("source", "target"))
    except ValueError as error:
        return Rejected(number, identity, str(error).removeprefix(f"line {number}: "))
    return Candidate(number, pair, source, target)


def _object(line: bytes) -> dict:
    if len(line) > LARGEST_RECORD:
        raise ValueError(f"the line has more than {LARGEST_RECORD} bytes: no pair has")
    try:
        row = parse_json(line)
    except ValueError as error:
        reason = str(error)
        if reason.startswith("not UTF-8"):
            reason = reason.replace(")", " of the line)", 1)
        raise ValueError(reason + _hint(line)) from None
    if not isinstance(row, dict):
        list_hint = ": give each row its own line, without the brackets of a list" if isinstance(row, list) else ""
        raise ValueError(f"expected a JSON object, found {type(row).__name__}{list_hint}")
    return row


def _hint(line: bytes) -> str:
    """What a line that is no JSON seems to be."""
    if b"\0" in line:
        return ": the file looks like UTF-16, as Excel and PowerShell write it; save it as UTF-8"
    text = line.decode("utf-8", "replace").strip()
    if text[:1] in ("[", "]", "}") or text == "{" or (line[:1] in b" \t" and text[:1] in '"{'):
        return ": the file looks like JSON over several lines; put each object on a line of its own, without a list"
    if text[:1] != "{" and "," in text:
        return ": the file looks like CSV; this format has one JSON object a line"
    return ""


def _path(row: dict, which: str) -> str:
    value = row.get(which)
    if not isinstance(value, str) or not value:
        reason = "is missing" if value is None else f"is {shown(value)}"
        names = ", ".join(shown(name) for name in list(row)[:12])
        mend = f"give the path of the {which} image, relative to the JSONL (fields here: {names})"
        raise ValueError(f"field {which!r} {reason}: {mend}")
    return value


IMPORTER = Importer(
    "jsonl", "a JSONL file, one pair a line, with 'source' and 'target' image paths", read_rows, count_rows
)
