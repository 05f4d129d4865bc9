"""Files on disk: written whole or not at all, and JSON that is read strictly.

A file or folder that is being written has PARTIAL in its name; `remove_partial` takes away what a killed process left.
"""

import errno
import json
import os
import re
import secrets
import shutil
import stat
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO, Any

PARTIAL = ".partial"

# An escaped half of a surrogate pair: only then can a JSON text hold what no file takes.
_SURROGATE = re.compile(rb"\\u[dD][89a-fA-F]")


@contextmanager
def replacing(path: str | os.PathLike[str], mode: str = "w") -> Iterator[IO[Any]]:
    """A file to write that takes the place of `path` at the end of the block, on the disk by then; `mode` is "w"
    (UTF-8) or "wb". An error in the block leaves `path` as it was. Several processes may do so at once: the last wins.

    Raises OSError."""
    path = Path(path)
    temporary = path.with_name(f"{path.name}.{os.getpid()}-{secrets.token_hex(4)}{PARTIAL}")
    try:
        opened = open(temporary, mode, encoding=None if "b" in mode else "utf-8")  # noqa: SIM115 (closed below)
    except OSError as error:
        error.filename = str(path)  # the name that the user knows
        raise
    try:
        with opened as file:
            yield file
            with naming(path):
                file.flush()
                os.fsync(file.fileno())
        os.replace(temporary, path)
    except BaseException:
        with suppress(OSError):
            temporary.unlink(missing_ok=True)
        raise
    _sync_folder(path.parent)


@contextmanager
def naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """An OSError in the block names the file: that of a write to a full disk has no name of its own."""
    try:
        yield
    except OSError as error:
        if error.filename is None:
            error.filename = str(path)
        raise


def write_atomically(path: str | os.PathLike[str], content: str | bytes) -> None:
    """Write a file so that it is either whole or as before, also when the machine stops in between. Raises OSError."""
    with naming(path), replacing(path, "wb") as file:
        file.write(content.encode() if isinstance(content, str) else content)


def rename_whole(partial: str | os.PathLike[str], final: str | os.PathLike[str]) -> None:
    """Give a finished file or folder its name, and have the folder that holds it remember. Raises OSError."""
    os.replace(partial, final)
    _sync_folder(Path(final).parent)


def remove_partial(folder: str | os.PathLike[str]) -> list[str]:
    """Remove what killed writers left directly in `folder` -> the names. Only for a folder that no one else writes."""
    removed = []
    for path in sorted(Path(folder).glob(f"*{PARTIAL}")):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()
        removed.append(path.name)
    return removed


def plain_file(path: str | os.PathLike[str]) -> Path:
    """The path, if it is a file that can be read to its end: a pipe would be waited for for ever. Raises OSError."""
    path = Path(path)
    mode = path.stat().st_mode
    if stat.S_ISDIR(mode):
        raise IsADirectoryError(errno.EISDIR, "a folder, expected a file", str(path))
    if not stat.S_ISREG(mode):
        raise OSError(errno.EINVAL, "a pipe or device, expected a plain file", str(path))
    return path


def parse_json(content: bytes | str) -> Any:
    """One JSON value, read strictly. Raises ValueError that says what is wrong, without naming a place: not UTF-8, not
    JSON, nested too deeply, NaN or Infinity, a key twice in one object, half a surrogate pair."""
    if isinstance(content, str):
        content = content.encode("utf-8", "surrogatepass")
    try:
        text = content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ValueError(f"not UTF-8 (byte {error.start}): save the file as UTF-8") from None
    try:
        value = _STRICT.decode(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"not valid JSON ({error})") from None
    except RecursionError:
        raise ValueError("not valid JSON (nested too deeply)") from None
    except ValueError as error:
        if isinstance(error, _RefusedError):
            raise
        raise ValueError("not valid JSON (a number of thousands of digits)") from None
    if _SURROGATE.search(content):
        try:
            json.dumps(value, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError("a text holds half a character (a lone surrogate): write it again") from None
    return value


def read_json(path: str | os.PathLike[str]) -> Any:
    """The value of a JSON file, as `parse_json`. Raises ValueError that names the file; OSError."""
    try:
        return parse_json(plain_file(path).read_bytes())
    except ValueError as error:
        raise ValueError(f"{path}: {error}") from None


def read_json_object(path: str | os.PathLike[str]) -> dict[str, Any]:
    """The object that a JSON file holds. Raises ValueError that names the file, also for another kind of value."""
    value = read_json(path)
    if not isinstance(value, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(value).__name__}")
    return value


class _RefusedError(ValueError):
    """JSON that Python's parser takes and we do not."""


def _object(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    values = dict(pairs)
    if len(values) != len(pairs):
        twice = next(key for key, count in Counter(key for key, _ in pairs).items() if count > 1)
        raise _RefusedError(f"key {twice!r} occurs twice in one object")
    return values


def _refuse_constant(name: str) -> None:
    raise _RefusedError(f"{name} is not a JSON number")


_STRICT = json.JSONDecoder(object_pairs_hook=_object, parse_constant=_refuse_constant)


def _sync_folder(folder: Path) -> None:
    """Have the disk know of a rename. Not every file system can (some network ones): then it is left to them."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def place_problem(path: Path) -> str:
    """Why nothing can be made at a path whose folders may be missing; "" where it can."""
    there = path.parent
    while not there.exists() and there != there.parent:
        there = there.parent
    if not there.is_dir():
        return f"{there} is a file"
    return "" if os.access(there, os.W_OK) else f"{there} cannot be written by this user"
