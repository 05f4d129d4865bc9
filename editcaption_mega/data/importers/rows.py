"""What importers yield, and what they share: reading a file or a pair so that a bad row is a reason, not a crash."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

from editcaption_mega.data.images import ImageError


class InputError(ValueError):
    """An input that can't be used as a whole: a bad argument or bad settings."""

    exit_code = 2


class Candidate(NamedTuple):
    """A row that could be read: its pair and both images as encoded bytes, not yet decoded."""

    row: int
    pair: Any  # EditPair
    source: bytes
    target: bytes


class Rejected(NamedTuple):
    """A row that can't be used: its number (counted from 1), its id where known, and the reason in one sentence."""

    row: int
    id: str | None
    reason: str


@dataclass(frozen=True)
class ImportOptions:
    """Options of formats that generate their rows (the others read all they are given), and `category`, for sets that
    do not say what kind of edits they hold."""

    count: int | None = None
    seed: int | None = None
    first_index: int | None = None
    category: str | None = None


@dataclass(frozen=True)
class Importer:
    """One format: its name, what its --input is, how to read it, how many rows to expect (None: unknown), and whether
    it takes `ImportOptions`. Both functions raise InputError where the input as a whole can't be used."""

    name: str
    input: str
    read: Callable[[str, ImportOptions], Iterator[Candidate | Rejected]]
    count: Callable[[str, ImportOptions], int | None]
    takes_options: bool = False


def input_file(path: str) -> Path:
    """The path, if it is a file. Raises InputError."""
    if not Path(path).is_file():
        raise InputError(f"{path}: no such file")
    return Path(path)


def read_image_file(path: Path, which: str) -> bytes:
    """The bytes of an image file; `which` is "source" or "target". Raises ImageError if it can't be read."""
    try:
        return path.read_bytes()
    except FileNotFoundError:
        raise ImageError(f"{which} image {str(path)!r} not found") from None
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        text = getattr(error, "strerror", None) or error
        raise ImageError(f"{which} image {str(path)!r} can't be read: {text}") from None
