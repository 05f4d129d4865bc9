"""Rows of WebDataset tars: the samples that `webdataset` groups, with a column for each member, named by what follows
the first dot of its name.

Members are read here, as tars that were joined by writing them one after another (X2Edit's) end for `tarfile` where the
first one does, and a damaged header is an end to it, too. Nothing is unpickled, whatever a member's name ends with."""

import re
import tarfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from editcaption_mega.data.images.decode import LARGEST_FILE
from editcaption_mega.data.importers.table_cells import Lost, Row
from editcaption_mega.files import parse_json
from editcaption_mega.records import shown
from editcaption_mega.words import words_of_error

_TEXT_MEMBERS = ("txt", "text", "caption", "instruction")
_COMPRESSED = (b"\x1f\x8b", b"BZh", b"\xfd7zXZ")
_OF_THE_WRITER = re.compile(r"__[^/]*__($|/)")  # what WebDataset's writers say of the tar


def tar_rows(path: Path) -> Iterator[Row | Lost]:
    """The samples of a tar; what a damaged place does not give is lost."""
    from webdataset.tariterators import group_by_keys

    try:
        for sample in group_by_keys(_members(path)):
            try:
                yield Row.of({name: _content(name, value) for name, value in sample.items() if name != "__url__"})
            except ValueError as error:
                yield Lost(f"sample {shown(str(sample.get('__key__')))} of {path.name}: {error}")
    except Exception as error:  # of any type: the library's, tarfile's, or ValueError for a name that is there twice
        error.args = error.args[:1]  # the library adds what it was doing
        yield Lost(f"the rest of {path.name} can't be read: {words_of_error(error)}")


def _members(path: Path) -> Iterator[dict[str, Any]]:
    """Members as `webdataset` has them; {} ends a sample where an archive ends, as the next may begin with its key."""
    with open(path, "rb") as stream:
        if stream.peek(8).startswith(_COMPRESSED):
            from webdataset.tariterators import tar_file_iterator

            yield from ({**member, "__url__": path.name} for member in tar_file_iterator(stream))
            return
        length = path.stat().st_size
        start: int | None = 0
        while start is not None:
            stream.seek(start)
            with tarfile.open(fileobj=stream, mode="r:") as tar:
                for name, content in _archive_members(tar, start, length):
                    yield {"fname": name, "data": content, "__url__": path.name}
                yield {}
                start = _next_archive(stream, tar.offset)


def _archive_members(tar: tarfile.TarFile, start: int, length: int) -> Iterator[tuple[str, bytes]]:
    member = tar.next()
    if member is None and start:  # something other than zeros is there
        raise tarfile.ReadError("a damaged header")
    while member is not None:
        if member.isreg() and not _OF_THE_WRITER.match(member.name):
            if member.issparse() or member.size > LARGEST_FILE:
                raise tarfile.ReadError(f"{member.name} is larger than any picture")
            if member.offset_data + member.size > length:
                raise tarfile.ReadError("unexpected end of data")
            content = tar.extractfile(member)
            assert content is not None, "a regular file has contents"
            yield member.name, content.read()
        tar.members = []  # type: ignore[attr-defined]  # else the tar keeps them all
        member = tar.next()


def _next_archive(stream: BinaryIO, at: int) -> int | None:
    """Where another archive, or damage, follows the zeros that end one; None where nothing does."""
    stream.seek(at)
    while block := stream.read(tarfile.BLOCKSIZE):
        if block.strip(b"\0"):
            return at
        at += len(block)
    return None


def _content(name: str, value: Any) -> Any:
    if not isinstance(value, bytes) or name.startswith("__"):
        return value
    kind = name.rsplit(".", 1)[-1].lower()
    if kind == "json":
        try:
            return parse_json(value)
        except ValueError as error:
            raise ValueError(f"member {name!r} is {error}") from None
    if kind in _TEXT_MEMBERS:
        try:
            return value.decode("utf-8")
        except UnicodeDecodeError:
            raise ValueError(f"member {name!r} is not UTF-8") from None
    return value
