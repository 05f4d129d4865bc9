"""The samples of one tar file, read so that no header can claim more than the file holds, or than a sample may."""

import hashlib
import os
import tarfile
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

from editcaption_mega.data.images.decode import image_size
from editcaption_mega.files import parse_json, plain_file
from editcaption_mega.records import EditPair, RecordError, shown
from editcaption_mega.words import one_line

from .layout import LARGEST_MEMBER, MEMBERS, IndexedSample, Member, ShardError, member_part

_LARGEST_HEADER = 1 << 16  # bytes; a long name or extended attributes
_MOST_PADDING = 1 << 20  # bytes of zeros behind the end mark


def read_tar(path: Path, number: int) -> list[IndexedSample]:
    """The samples of a tar, in the order of their first members; `number` is that of the shard.

    Raises ShardError for a tar that is damaged or truncated, holds something outside the layout, an incomplete sample
    or a member twice; ImageError, RecordError for content."""
    parts: dict[str, dict[str, Member]] = {}
    with open(plain_file(path), "rb") as file:
        for info in _headers(path, file):
            if info.isdir():
                continue  # holds nothing itself
            key, part, member = _read_member(path, file, info)
            if part in parts.setdefault(key, {}):
                raise ShardError(f"{path}: sample {key!r} has its {part} twice")
            parts[key][part] = member
    samples = []
    for key, members in parts.items():
        missing = [part for part in MEMBERS if part not in members]
        if missing:
            raise ShardError(f"{path}: sample {key!r} has no {' and no '.join(missing)} member")
        samples.append(IndexedSample(key, number, *(members[part] for part in MEMBERS)))
    return samples


def member_extents(path: Path) -> Counter[tuple[str, int, int]]:
    """(name, offset, bytes) of each member of a tar, as its headers say. Raises ShardError."""
    with open(path, "rb") as file:
        headers = (info for info in _headers(path, file) if not info.isdir())
        return Counter((info.name, info.offset_data, info.size) for info in headers)


def parse_pair(content: bytes, where: str) -> EditPair:
    """The pair of a JSON member. Raises RecordError."""
    try:
        record = parse_json(content)
    except ValueError as error:
        raise RecordError(f"{where}: {error}") from None
    return EditPair.from_json(record, where=where)


class _HeaderFile:
    """What tarfile may read of a tar: headers, each once, and none of a size that a header cannot have."""

    def __init__(self, file: BinaryIO):
        self._file, self._end = file, 0
        self.seek, self.tell = file.seek, file.tell

    def read(self, size: int) -> bytes:
        offset = self._file.tell()
        if not 0 <= size <= _LARGEST_HEADER:
            raise tarfile.ReadError(f"a header of {size} bytes")
        if offset < self._end - 1:  # tarfile looks at the last byte before the next header
            raise tarfile.ReadError(f"a member that ends before it begins, at byte {self._end}")
        self._end = offset + size
        return self._file.read(size)


def _headers(path: Path, file: BinaryIO) -> Iterator[tarfile.TarInfo]:
    size = os.fstat(file.fileno()).st_size
    try:
        with tarfile.open(fileobj=cast(IO[bytes], _HeaderFile(file)), mode="r:") as tar:
            while (info := tar.next()) is not None:
                cast(Any, tar).members.clear()  # it would keep them all
                if not 0 <= info.size <= info.offset_data + info.size <= size:
                    raise ShardError(
                        f"{path}: member {shown(info.name)} is cut off: the tar was truncated; copy it again"
                    )
                yield info
            end = tar.offset
    except ShardError:
        raise
    except Exception as error:  # tarfile lets a dozen kinds through
        reason = one_line(str(error)) or type(error).__name__
        raise ShardError(f"{path}: damaged or truncated tar ({reason}): copy it again") from None
    if os.pread(file.fileno(), tarfile.BLOCKSIZE, end) != bytes(tarfile.BLOCKSIZE):
        raise ShardError(f"{path}: the tar has no end mark: it was truncated; copy it again")
    if size - end > _MOST_PADDING or any(os.pread(file.fileno(), _MOST_PADDING, end)):
        raise ShardError(
            f"{path}: the file goes on after the tar's end mark (two tars put together?): unpack and repack it"
        )


def _read_member(path: Path, file: BinaryIO, info: tarfile.TarInfo) -> tuple[str, str, Member]:
    known = member_part(info.name)
    if known is None or not info.isreg() or info.issparse():
        raise ShardError(
            f"{path}: member {shown(info.name)} is not part of the layout: expected KEY.src.jpg|png|webp, "
            "KEY.tgt.jpg|png|webp, KEY.json, where KEY has letters, digits, '-' and '_'"
        )
    key, part = known
    where = f"{path}: {info.name}"
    if info.size > LARGEST_MEMBER[part]:
        raise ShardError(f"{where}: {info.size} bytes, more than the {LARGEST_MEMBER[part]} that its {part} may have")
    content = os.pread(file.fileno(), info.size, info.offset_data)
    size = (None, None)
    if part != "json":
        size = image_size(content, where=where)
    elif (pair := parse_pair(content, where)).id != key:
        raise ShardError(f"{where}: its id is {pair.id!r}, its key is {key!r}: they must be the same")
    digest = hashlib.sha256(content).hexdigest()
    return key, part, Member(info.name, info.offset_data, info.size, digest, *size)
