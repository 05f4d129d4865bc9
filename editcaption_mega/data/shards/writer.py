"""Writing a folder of shards: deterministic tar files, then their index, and nothing at all if the work fails."""

import hashlib
import io
import json
import os
import re
import tarfile
from contextlib import suppress
from pathlib import Path
from typing import IO, BinaryIO, cast

from editcaption_mega import lock
from editcaption_mega.data.images.decode import image_size
from editcaption_mega.files import PARTIAL, naming, rename_whole
from editcaption_mega.records import EditPair, RecordError

from .index import COLUMNS_GLOB, INDEX_NAME, Index, write_index
from .index_columns import ColumnsBuilder
from .layout import LARGEST_MEMBER, IndexedSample, Member, ShardError, ShardFile

SAMPLES_PER_SHARD = 1000
BYTES_PER_SHARD = 1 << 30
REJECTED_NAME = "rejected.jsonl"
WARNINGS_NAME = "warnings.jsonl"
EXTENSIONS = ("jpg", "png", "webp")

_LISTS = {REJECTED_NAME, WARNINGS_NAME}
_BLOCK = tarfile.BLOCKSIZE
# What a killed writer leaves; its finished tars as well, while its lock shows that their index was not yet written.
_COLUMNS = r"index-[0-9a-f]{12}\.safetensors"
_UNFINISHED = re.compile(rf"(?:shard-\d{{6}}\.tar|{_COLUMNS}|{re.escape(INDEX_NAME)}\..*){re.escape(PARTIAL)}")
_FINISHED = re.compile(rf"shard-\d{{6}}\.tar|{_COLUMNS}")


class OutputError(ShardError):
    """A folder in which no set can be made, as it holds something: exit code 2, as for any argument to mend."""

    exit_code = 2


class DuplicateIdError(ShardError):
    """A sample whose id is already in the set."""


class ShardWriter:
    """Writes `shard-000000.tar`, ... with KEY.src.EXT, KEY.tgt.EXT, KEY.json, and `index.json` last of all.

    Equal samples give equal bytes. Until `close`, the tars carry the ending `.partial` and the folder is locked;
    leaving the `with` block by an exception removes them, so a folder either holds a whole set or none. What a killed
    writer left is removed, and the work begins again. A new shard starts after `samples_per_shard` samples or
    `bytes_per_shard` bytes of content, whichever comes first.

        with ShardWriter("shards") as writer:
            writer.add(pair, source_bytes, "jpg", target_bytes, "png")
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        samples_per_shard: int = SAMPLES_PER_SHARD,
        bytes_per_shard: int = BYTES_PER_SHARD,
    ):
        """Raises ShardError if the folder holds anything but the lists of a failed run or what a killed writer left;
        lock.HeldError if another process writes there."""
        if samples_per_shard < 1 or bytes_per_shard < 1:
            raise ValueError(
                f"samples_per_shard={samples_per_shard}, bytes_per_shard={bytes_per_shard}: both must be 1 or more"
            )
        self.directory = Path(directory)
        refuse_used(self.directory)
        was_killed = (self.directory / lock.NAME).exists()
        self._lock = lock.FolderLock(self.directory, "making shards", patience=0)
        self._lock.acquire()
        try:
            for name in refuse_used(self.directory, was_killed):
                (self.directory / name).unlink()
        except BaseException:
            self._lock.release()
            raise
        self.samples_per_shard, self.bytes_per_shard = samples_per_shard, bytes_per_shard
        self._shards: list[ShardFile] = []
        self._samples = ColumnsBuilder()
        self._ids: set[str] = set()
        self._tar: tarfile.TarFile | None = None
        self._file: _HashingFile | None = None
        self._in_shard = self._bytes_in_shard = 0
        self._index: Index | None = None

    def __len__(self) -> int:
        """How many samples were added."""
        return len(self._samples)

    def check_id(self, identity: str) -> None:
        """Raises DuplicateIdError for an id that is already in the set."""
        if identity in self._ids:
            raise DuplicateIdError(f"id {identity!r} is already in the set: ids must be unique")

    def add(
        self, pair: EditPair, source: bytes, source_extension: str, target: bytes, target_extension: str
    ) -> IndexedSample:
        """Append one sample; images as encoded bytes (see `images.bake`), extensions without a dot.

        Raises DuplicateIdError, ImageError (unreadable header), RecordError (a pair that is no JSON, or a megabyte of
        it), ValueError (extension not jpg, png or webp)."""
        self.check_id(pair.id)
        for extension in (source_extension, target_extension):
            if extension not in EXTENSIONS:
                raise ValueError(f"{pair.id}: image extension {extension!r}: expected one of {', '.join(EXTENSIONS)}")
        source_size = image_size(source, where=f"{pair.id} source")
        target_size = image_size(target, where=f"{pair.id} target")
        record = _record(pair)
        length = len(source) + len(target) + len(record)
        full = self._in_shard >= self.samples_per_shard or self._bytes_in_shard + length > self.bytes_per_shard
        if self._tar is not None and full:
            self._finish_shard()
        if self._tar is None:
            self._start_shard()
        sample = IndexedSample(
            pair.id,
            len(self._shards),
            self._add_member(f"{pair.id}.src.{source_extension}", source, source_size),
            self._add_member(f"{pair.id}.tgt.{target_extension}", target, target_size),
            self._add_member(f"{pair.id}.json", record, (None, None)),
        )
        self._ids.add(pair.id)
        self._samples.add(sample)
        self._in_shard += 1
        self._bytes_in_shard += length
        return sample

    def close(self) -> Index:
        """Finish the shards and write the index. Raises ShardError, leaving no shards, if no sample was added."""
        if self._index is not None:
            return self._index
        if not len(self._samples):
            self.abort()
            raise ShardError(f"{self.directory}: no sample was added, so no set was written")
        try:
            self._finish_shard()
            self._lock.check()
            for shard in self._shards:
                rename_whole(self.directory / (shard.name + PARTIAL), self.directory / shard.name)
            self._index = write_index(self.directory, self._shards, self._samples.columns())
        except BaseException:
            self.abort()
            raise
        self._lock.release()
        return self._index

    def abort(self) -> None:
        """Remove what was written so far, and the folder if nothing else is in it. A finished set stays, and so does
        what is in a folder that another process has taken over."""
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take is to go anyway
                self._file.raw.close()
        self._tar = self._file = None
        if self._lock.is_lost or (self.directory / INDEX_NAME).exists():
            self._lock.release()
            return
        for path in self.directory.glob(COLUMNS_GLOB + "*"):
            path.unlink(missing_ok=True)
        for number in range(len(self._shards) + 1):
            for name in (_shard_name(number), _shard_name(number) + PARTIAL):
                (self.directory / name).unlink(missing_ok=True)
        self._lock.release()
        if self.directory.exists() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        else:
            self.abort()

    def _start_shard(self) -> None:
        self._lock.check()
        path = self.directory / (_shard_name(len(self._shards)) + PARTIAL)
        self._file = _HashingFile(open(path, "xb"))  # noqa: SIM115 (closed with its shard)
        # GNU format: ids longer than a tar header's 100 characters get a header of their own.
        self._tar = tarfile.open(fileobj=cast(IO[bytes], self._file), mode="w", format=tarfile.GNU_FORMAT)  # noqa: SIM115
        self._in_shard = self._bytes_in_shard = 0

    def _finish_shard(self) -> None:
        file, tar = self._file, self._tar
        assert file is not None and tar is not None, "a shard is open"
        with naming(file.raw.name):
            tar.close()
            file.raw.flush()
            os.fsync(file.raw.fileno())
            file.raw.close()
        self._shards.append(
            ShardFile(_shard_name(len(self._shards)), file.bytes, file.hash.hexdigest(), self._in_shard)
        )
        self._tar = self._file = None

    def _add_member(self, name: str, content: bytes, size: tuple[int | None, int | None]) -> Member:
        info = tarfile.TarInfo(name)  # mtime, uid and gid are 0, user and group names empty
        info.size, info.mode = len(content), 0o644
        assert self._tar is not None, "a shard is open"
        self._tar.addfile(info, io.BytesIO(content))
        offset = self._tar.offset - -(-len(content) // _BLOCK) * _BLOCK
        return Member(name, offset, len(content), hashlib.sha256(content).hexdigest(), *size)


class _HashingFile:
    """The file a tar is written to; keeps the sha256 and the count of what passed."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.hash, self.bytes = raw, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.bytes += len(data)
        with naming(self.raw.name):
            return self.raw.write(data)

    def tell(self) -> int:
        return self.bytes


def refuse_used(directory: Path, was_killed: bool = True) -> list[str]:
    """The names of what a killed writer left in the folder: its finished tars too if `was_killed` says that it left its
    lock. Raises OutputError if the folder holds anything else but the lists of a failed run, so that nothing is ever
    overwritten."""
    if not directory.exists():
        return []
    if not directory.is_dir():
        raise OutputError(f"{directory}: a file, not a folder: name another output folder")
    names = {entry.name for entry in directory.iterdir()} - {lock.NAME} - _LISTS
    left = {name for name in names if _UNFINISHED.fullmatch(name)}
    if was_killed and INDEX_NAME not in names:
        left |= {name for name in names if _FINISHED.fullmatch(name)}
    if others := sorted(name for name in names - left if not name.startswith(f"{lock.NAME}.")):
        more = " and more" if len(others) > 1 else ""
        raise OutputError(
            f"{directory}: exists already and is not empty (it holds {others[0]}{more}), and nothing is overwritten: "
            "name another output folder or remove this one first"
        )
    return sorted(left)


def _record(pair: EditPair) -> bytes:
    row = pair.to_json()
    EditPair.from_json(row, where=pair.id)  # a copy that was changed is not checked where it is made
    try:
        record = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{pair.id}: has no JSON form ({error})") from None
    if len(record) > LARGEST_MEMBER["json"]:
        raise RecordError(f"{len(record)} bytes of JSON, more than the {LARGEST_MEMBER['json']} that a pair may have")
    return record


def _shard_name(number: int) -> str:
    return f"shard-{number:06d}.tar"
