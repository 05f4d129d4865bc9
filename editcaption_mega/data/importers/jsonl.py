"""The plain format: one JSON object a line, the fields of `EditPair` plus "source" and "target" (paths)."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from editcaption_mega.data.images.file_kinds import kind_of_file
from editcaption_mega.data.importers.candidates import (
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
_LOOKED_AT = 10_000  # characters of a line that are searched for what it seems to be


def read(path: str, options: ImportOptions) -> Iterator[Candidate | Rejected]:
    """Yield one row per line that isn't blank. Image paths are relative to the JSONL, or absolute.

    Rejected, with the line number: not UTF-8, not JSON, breaking the schema, an image path absent or unreadable.
    Raises InputError if there is no such file."""
    folder = Path(path).parent
    for number, line in rows_of_lines(path):
        yield _row(number, line, folder)


def count(path: str, options: ImportOptions) -> int:
    """The number of lines that aren't blank."""
    return sum(1 for _ in rows_of_lines(path))


def rows_of_lines(path: str) -> Iterator[tuple[int, bytes]]:
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
        row = object_of(line)
        identity = str(row["id"])[:200] if "id" in row else None
        paths = {side: _path(row, side) for side in ("source", "target")}
        fields = {name: value for name, value in row.items() if name not in paths}
        pair = EditPair.from_json(fields, where=f"line {number}")
        source, target = (read_image_file(folder / paths[side], side) for side in ("source", "target"))
    except ValueError as error:
        return Rejected(number, identity, str(error).removeprefix(f"line {number}: "))
    return Candidate(number, pair, source, target, (paths["source"], paths["target"]))


def object_of(line: bytes) -> dict[str, Any]:
    """The object of a line. Raises ValueError with what the line seems to be."""
    if len(line) > LARGEST_RECORD:
        raise ValueError(f"the line has more than {LARGEST_RECORD} bytes: no pair has")
    try:
        row = parse_json(line)
    except ValueError as error:
        reason = str(error)
        hint = _hint(line)
        if reason.startswith("not UTF-8"):
            reason = reason.replace(")", " of the line)", 1)
            reason = reason.partition(": ")[0] if hint else reason
        raise ValueError(reason + hint) from None
    if not isinstance(row, dict):
        list_hint = ": give each row its own line, without the brackets of a list" if isinstance(row, list) else ""
        raise ValueError(f"expected a JSON object, found {type(row).__name__}{list_hint}")
    return row


def _hint(line: bytes) -> str:
    """What a line that is no JSON seems to be."""
    known = kind_of_file(line)
    if known and known[0] != "JSON":
        return f": the file is {known[0]}; {known[1]}"
    if b"\0" in line:
        return ": the file looks like UTF-16, as Excel and PowerShell write it; save it as UTF-8"
    text = line.decode("utf-8", "replace").strip()
    if text[:1] in ("[", "]", "}") or text == "{" or (line[:1] in b" \t" and text[:1] in '"{'):
        return ": the file looks like JSON over several lines; put each object on a line of its own, without a list"
    if text.startswith(("//", "#", "/*")):
        return ": JSON has no comments; take the line out"
    if text[:1] != "{" and any(sign in text for sign in ",;\t"):
        return ": the file looks like CSV; this format has one JSON object a line"
    if "\r" in text:
        return ": the lines end as on old Macs (CR); save the file with the line ends of Unix (LF)"
    if text.endswith(","):
        if text[:1] == "{" and not text.rstrip(", ").endswith("}"):
            return ": the object goes on in the next line; put each on a line of its own, whole"
        return ": take the comma off the end of the line"
    if re.search(r"\}\s*,?\s*\{\s*\"", text[:_LOOKED_AT]):
        return ": there seem to be several objects on one line; put each on a line of its own"
    if re.match(r"\{\s*'", text):
        return ": the line looks like a Python dict; write it with json.dumps"
    return ""


def _path(row: dict[str, Any], side: str) -> str:
    value = row.get(side)
    if not isinstance(value, str) or not value:
        reason = "is missing" if value is None else f"is {shown(value)}"
        names = ", ".join(shown(name) for name in list(row)[:12])
        mend = f"give the path of the {side} image, relative to the JSONL (fields here: {names})"
        raise ValueError(f"field {side!r} {reason}: {mend}")
    return value


IMPORTER = Importer("jsonl", "a JSONL file, one pair a line, with 'source' and 'target' image paths", read, count)
