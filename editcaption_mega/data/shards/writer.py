"""Writing a folder of shards: deterministic tar files, then their index, and nothing at all if the work fails."""

import hashlib
import os
import re
import sqlite3
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import BinaryIO

from editcaption_mega import lock
from editcaption_mega.data.scratch import open_scratch
from editcaption_mega.files import PARTIAL, naming, rename_whole
from editcaption_mega.records import EditPair

from .index import COLUMNS_GLOB, INDEX_NAME, Index, write_index
from .index_columns import ColumnsBuilder
from .layout import IndexedSample, ShardError, ShardFile
from .sample_bytes import TarSample, encoded_sample, tar_end
from .tar import read_tar

SAMPLES_PER_SHARD = 1000
BYTES_PER_SHARD = 1 << 30
REJECTED_NAME = "rejected.jsonl"
WARNINGS_NAME = "warnings.jsonl"
JOURNAL_NAME = "import.jsonl" + PARTIAL  # how far an import is

_LISTS = {REJECTED_NAME, WARNINGS_NAME}
# What a killed writer leaves; its finished tars as well, while its lock shows that their index was not yet written.
_COLUMNS = r"index-[0-9a-f]{12}\.safetensors"
_WHOLE_NAMES = rf"shard-\d{{6}}\.tar|{_COLUMNS}|import\.jsonl|{re.escape(INDEX_NAME)}\..*"
_UNFINISHED = re.compile(rf"(?:{_WHOLE_NAMES}){re.escape(PARTIAL)}")
_FINISHED = re.compile(rf"shard-\d{{6}}\.tar|{_COLUMNS}")


class OutputError(ShardError):
    """A folder in which no set can be made, as it holds something: exit code 2, as for any argument to mend."""

    exit_code = 2


class DuplicateIdError(ShardError):
    """A sample whose id is already in the set."""


class ShardWriter:
    """Writes `shard-000000.tar`, ... with KEY.src.EXT, KEY.tgt.EXT, KEY.json, and `index.json` last of all.

    Equal samples give equal bytes. Until `close`, the tars carry the ending `.partial` and the folder is locked;
    leaving the `with` block by an exception removes them, so a folder either holds a whole set or none (but for those
    of `goes_on_after`, which leave what is finished). What a killed writer left is removed, and the work begins again,
    but for the shards that `kept` names. A new shard starts after `samples_per_shard` samples or `bytes_per_shard`
    bytes of content, whichever comes first.

        with ShardWriter("shards") as writer:
            writer.add(pair, source_bytes, "jpg", target_bytes, "png")
    """

    def __init__(
        self,
        directory: str | os.PathLike[str],
        *,
        samples_per_shard: int = SAMPLES_PER_SHARD,
        bytes_per_shard: int = BYTES_PER_SHARD,
        kept: Callable[[Path], Sequence[ShardFile]] = lambda folder: (),
        on_kept: Callable[[Path, list[IndexedSample]], None] = lambda tar, samples: None,
        goes_on_after: tuple[type[BaseException], ...] = (),
    ):
        """kept: the finished shards of a killed writer that this one goes on behind, asked while the folder is locked;
        on_kept: told of the tar of each, with its samples.

        Raises ShardError if the folder holds anything but the lists of a failed run or what a killed writer left;
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
        self.samples_per_shard, self.bytes_per_shard = samples_per_shard, bytes_per_shard
        self.on_shard: Callable[[ShardFile], None] = lambda shard: None  # told of each shard that is on the disk
        self._on_kept = on_kept
        self._goes_on_after = goes_on_after
        self._shards: list[ShardFile] = []
        self._samples = ColumnsBuilder()
        self._ids = open_scratch("TABLE ids (id TEXT PRIMARY KEY) WITHOUT ROWID")
        self._file: _HashingFile | None = None
        self._in_shard = self._bytes_in_shard = 0
        self._index: Index | None = None
        try:
            shards = kept(self.directory)
            self.goes_on = bool(shards)
            self._take_over(shards, was_killed)
        except BaseException:
            self._lock.release()
            raise

    def __len__(self) -> int:
        """How many samples were added."""
        return len(self._samples)

    def _take_over(self, kept: Sequence[ShardFile], was_killed: bool) -> None:
        """Remove what a killed writer left, but for those shards. Raises ShardError for one that is not as it was."""
        for shard in kept:
            path, whole = self.directory / (shard.name + PARTIAL), self.directory / shard.name
            if whole.exists():  # it was killed while it gave them their names
                rename_whole(whole, path)
            with open(path, "rb") as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != shard.sha256:
                    raise ShardError(f"{path} is damaged: remove {self.directory}, and import again")
            samples = read_tar(path, len(self._shards))
            for sample in samples:
                self._note_id(sample.id)
                self._samples.add(sample)
            self._on_kept(path, samples)
            self._shards.append(shard)
        names = {shard.name + PARTIAL for shard in kept} | ({JOURNAL_NAME} if kept else set())
        for name in refuse_used(self.directory, was_killed or bool(kept)):
            if name not in names:
                (self.directory / name).unlink()

    def check_id(self, identity: str) -> None:
        """Raises DuplicateIdError for an id that is already in the set."""
        if any(self._ids.execute("SELECT 1 FROM ids WHERE id = ?", (identity,))):
            raise _duplicate(identity)

    def _note_id(self, identity: str) -> None:
        try:
            self._ids.execute("INSERT INTO ids VALUES (?)", (identity,))
        except sqlite3.IntegrityError:
            raise _duplicate(identity) from None

    def add(
        self, pair: EditPair, source: bytes, source_extension: str, target: bytes, target_extension: str
    ) -> IndexedSample:
        """Append one sample; images as encoded bytes (see `images.bake`), extensions without a dot.

        Raises DuplicateIdError, ImageError (unreadable header), RecordError (a pair that is no JSON, or a megabyte of
        it), ValueError (extension not jpg, png or webp)."""
        self.check_id(pair.id)
        return self.add_encoded(encoded_sample(pair, source, source_extension, target, target_extension))

    def add_encoded(self, sample: TarSample) -> IndexedSample:
        """Append a sample that is in its form already. Raises DuplicateIdError."""
        self._note_id(sample.id)
        full = (
            self._in_shard >= self.samples_per_shard
            or self._bytes_in_shard + sample.content_bytes > self.bytes_per_shard
        )
        if self._file is not None and full:
            self._finish_shard()
        if self._file is None:
            self._file = self._new_shard()
        indexed = sample.at(len(self._shards), self._file.bytes)
        self._file.write(sample.blocks)
        self._samples.add(indexed)
        self._in_shard += 1
        self._bytes_in_shard += sample.content_bytes
        return indexed

    def close(self) -> Index:
        """Finish the shards and write the index. Raises ShardError, leaving no shards, if no sample was added."""
        if self._index is not None:
            return self._index
        if not len(self._samples):
            self.abort()
            raise ShardError(f"{self.directory}: no sample was added, so no set was written")
        try:
            if self._file is not None:
                self._finish_shard()
            self._lock.check()
            for shard in self._shards:
                rename_whole(self.directory / (shard.name + PARTIAL), self.directory / shard.name)
            self._index = write_index(self.directory, self._shards, self._samples)
        except BaseException:
            self.abort()
            raise
        (self.directory / JOURNAL_NAME).unlink(missing_ok=True)
        self._lock.release()
        return self._index

    def waits_after(self, kind: type[BaseException] | None) -> bool:
        """Whether the shards that are finished stay, when an exception of that type ends the work."""
        return kind is not None and bool(self._shards) and issubclass(kind, self._goes_on_after)

    def suspend(self) -> None:
        """Leave the finished shards to a writer that goes on behind them; the one that is open is lost."""
        if self._file is not None:
            with suppress(OSError):
                self._file.raw.close()
        self._file = None
        self._lock.release()

    def abort(self) -> None:
        """Remove what was written so far, and the folder if nothing else is in it. A finished set stays, and so does
        what is in a folder that another process has taken over."""
        if self._file is not None:
            with suppress(OSError):  # what a full disk did not take is to go anyway
                self._file.raw.close()
        self._file = None
        if self._lock.is_lost or (self.directory / INDEX_NAME).exists():
            self._lock.release()
            return
        for path in (*self.directory.glob(COLUMNS_GLOB + "*"), self.directory / JOURNAL_NAME):
            path.unlink(missing_ok=True)
        for number in range(len(self._shards) + 1):
            for name in (shard_name(number), shard_name(number) + PARTIAL):
                (self.directory / name).unlink(missing_ok=True)
        self._lock.release()
        if self.directory.exists() and not any(self.directory.iterdir()):
            self.directory.rmdir()

    def __enter__(self) -> "ShardWriter":
        return self

    def __exit__(self, kind: type[BaseException] | None, *_: object) -> None:
        if kind is None:
            self.close()
        elif self.waits_after(kind):
            self.suspend()
        else:
            self.abort()

    def _new_shard(self) -> "_HashingFile":
        self._lock.check()
        self._in_shard = self._bytes_in_shard = 0
        return _HashingFile(open(self.directory / (shard_name(len(self._shards)) + PARTIAL), "xb"))

    def _finish_shard(self) -> None:
        file = self._file
        assert file is not None, "a shard is open"
        file.write(tar_end(file.bytes))
        with naming(file.raw.name):
            file.raw.flush()
            os.fsync(file.raw.fileno())
            file.raw.close()
        self._shards.append(ShardFile(shard_name(len(self._shards)), file.bytes, file.hash.hexdigest(), self._in_shard))
        self._file = None
        self.on_shard(self._shards[-1])


class _HashingFile:
    """The file a tar is written to; keeps the sha256 and the count of what passed."""

    def __init__(self, raw: BinaryIO) -> None:
        self.raw, self.hash, self.bytes = raw, hashlib.sha256(), 0

    def write(self, data: bytes) -> int:
        self.hash.update(data)
        self.bytes += len(data)
        with naming(self.raw.name):
            return self.raw.write(data)


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


def _duplicate(identity: str) -> DuplicateIdError:
    return DuplicateIdError(f"id {identity!r} is already in the set: ids must be unique")


def shard_name(number: int) -> str:
    """Of a whole shard."""
    return f"shard-{number:06d}.tar"
