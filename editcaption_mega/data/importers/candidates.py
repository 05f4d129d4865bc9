"""What importers yield: candidates for a set, or the reason why a row is none; and what they share in reading files."""

import re
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from editcaption_mega.data.images.decode import LARGEST_FILE, ImageError
from editcaption_mega.files import plain_file
from editcaption_mega.records import EditPair


class InputError(ValueError):
    """An input that can't be used as a whole: a bad argument or bad settings."""

    exit_code = 2


class Candidate(NamedTuple):
    """A row that could be read: its pair and both images as encoded bytes, not yet decoded."""

    number: int  # of the row in its input, from 1
    pair: EditPair
    source: bytes
    target: bytes
    paths: tuple[str, str] | None = None  # where they were read


class Rejected(NamedTuple):
    """A row that can't be used: its number (from 1), its id where known, and the reason in one sentence. It may
    stand for `count` rows that are lost together; `kind` is the reason in words that are the same for every row."""

    number: int
    id: str | None
    reason: str
    count: int = 1  # type: ignore[assignment]  # rows, in the place of a tuple's own count
    kind: str | None = None


@dataclass(frozen=True)
class ImportOptions:
    """Options of formats that generate their rows (the others read all they are given); `category`, for sets that do
    not say what kind of edits they hold; of tables, what each column is, where paths of pictures begin, the name and
    the license of the set, which language of an instruction counts, which pairs of a session (each turn, the first to
    the last picture, both), and the folder of an editor's answers to a benchmark."""

    count: int | None = None
    seed: int | None = None
    first_index: int | None = None
    category: str | None = None
    columns: Mapping[str, str] | None = None
    images: str | None = None
    name: str | None = None
    license: str | None = None
    language: str | None = None
    turns: str | None = None
    answers: str | None = None


@dataclass(frozen=True)
class Importer:
    """One format: its name, what its --input is, how to read it, how many rows to expect (None: unknown), whether it
    takes the synthetic `ImportOptions`, whether the user must say the kind of edits, or can, whether the user says
    which column is what, whether its rows are sessions, and whether its targets are an editor's answers. Both
    functions raise InputError where the input as a whole can't be used."""

    name: str
    input: str
    read: Callable[[str, ImportOptions], Iterator[Candidate | Rejected]]
    count: Callable[[str, ImportOptions], int | None]
    takes_options: bool = False
    needs_category: bool = False
    takes_category: bool = False
    takes_map: bool = False
    takes_turns: bool = False
    takes_answers: bool = False


def input_file(path: str) -> Path:
    """The path, if it is a file. Raises InputError."""
    try:
        return plain_file(path)
    except FileNotFoundError:
        raise InputError(f"{path}: no such file") from None
    except OSError as error:
        raise InputError(f"{path}: {error.strerror}") from None


def read_image_file(path: Path, side: str) -> bytes:
    """The bytes of an image file; `side` is "source" or "target". Raises ImageError if it can't be read: absent, no
    plain file (a pipe would never end), larger than any picture."""
    where = f"{side} image {str(path)!r}"
    try:
        size = plain_file(path).stat().st_size
        if size > LARGEST_FILE:
            raise ImageError(f"{where}: {size} bytes, more than the {LARGEST_FILE} that a picture may have")
        return path.read_bytes()
    except ImageError:
        raise
    except FileNotFoundError:
        raise ImageError(f"{where} not found{_hint(path)}") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        text = getattr(error, "strerror", None) or error
        raise ImageError(f"{where[:200]} can't be read: {text}{_hint(path)}") from None


def _hint(path: Path) -> str:
    if re.search(r"data:image|iVBORw0KGgo|(?:^|/)/9j/|UklGR", str(path)):
        return ": it is the picture itself in base64, expected a path; write the pictures to files"
    if "file:/" in str(path):
        return ": it is a file address, expected a path; take 'file://' off"
    if "~" in path.parts:
        return ": write the home folder in full in the place of '~'"
    if re.search(r"(?:https?|s3|gs|hf|ftp|data):/", str(path)):
        return ": it is an address, expected a path; download the pictures first"
    if "\\" in str(path):
        return r": write '/' instead of '\' in paths"
    return ""
