"""Reading shards by byte offset: any sample in any order, from any thread or forked process, without unpacking."""

import hashlib
import os
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np

from editcaption_mega.files import parse_json
from editcaption_mega.records import EditPair

from .check import CheckedFile, rebuild_index, verify
from .layout import MEMBERS, ShardError
from .mirrors import Mirror, ShardCache
from .shard_columns import ShardColumns
from .writer import DuplicateIdError, ShardWriter

__all__ = [
    "CheckedFile",
    "DuplicateIdError",
    "SampleMeta",
    "ShardError",
    "ShardReader",
    "ShardSample",
    "ShardWriter",
    "Side",
    "open_shards",
    "rebuild_index",
    "verify",
]

Side = Literal["source", "target"]  # which picture of a pair
SIDES: tuple[Side, ...] = get_args(Side)
_JSON = MEMBERS.index("json")
_MOST_OPEN_FILES = 256


@dataclass(frozen=True, slots=True)
class SampleMeta:
    """What is known of a sample without reading it. Sizes are (width, height) in pixels of the upright pictures."""

    id: str
    source_size: tuple[int, int]
    target_size: tuple[int, int]

    def size(self, side: Side) -> tuple[int, int]:
        return self.source_size if side == "source" else self.target_size


@dataclass(frozen=True, slots=True)
class ShardSample:
    """One sample as stored: the pair, both images as encoded bytes (`images.decode_image` reads them), their sizes."""

    pair: EditPair
    source_bytes: bytes
    target_bytes: bytes
    source_size: tuple[int, int]
    target_size: tuple[int, int]


def open_shards(directories: str | os.PathLike[str] | Iterable[str | os.PathLike[str]]) -> "ShardReader":
    """Open one folder of shards, or several as one set, concatenated in the order given. A folder may be an address
    (http, s3, hf, ..), whose tars are fetched when they are first read (see `mirrors`).

    Raises ShardError: index.json missing, damaged or of another schema version; a tar missing or of another size than
    the index says; an id that two folders share.
    """
    if isinstance(directories, str | os.PathLike):
        directories = [directories]
    cache = ShardCache.default()
    return ShardReader([cache.update(directory) for directory in directories])


class ShardReader:
    """A read-only sequence of samples: `len(reader)`, `reader[i]`, `reader.meta(i)`, `reader.fingerprint`.

    Reads with `os.pread`, which moves no shared file position: safe in threads, after fork, and when sent to a spawned
    process (files are opened again there).
    """

    def __init__(self, directories: list[Path], columns: ShardColumns | None = None):
        """columns: what the folders hold, where it is known already."""
        self._files: dict[int, int] = {}  # shard number -> file descriptor
        self.directories = directories
        if not directories:
            raise ShardError("no folder of shards was given")
        self.use(columns or ShardColumns.read(directories))

    def use(self, columns: ShardColumns) -> None:
        """The same samples, from another place."""
        self.columns, self.ids, self.fingerprint = columns, columns.ids, columns.fingerprint
        self._paths = columns.paths
        self._mirrors = list(map(Mirror.of, self.directories))
        places = (columns.shard, columns.offset, columns.bytes, columns.pixels)
        # As plain arrays, which cost less to look at than mapped ones (see `Texts`).
        self._shard, self._offset, self._bytes, self._pixels = (array.view(np.ndarray) for array in places)

    def __len__(self) -> int:
        return len(self.ids)

    def __getitem__(self, i: int) -> ShardSample:
        """Read one sample; negative indices count from the end. Raises IndexError, ShardError (truncated tar),
        RecordError (json that breaks the schema)."""
        i = self._index(i)
        source, target = (self.picture(i, side) for side in SIDES)
        meta = self.meta(i)
        return ShardSample(self.pair(i), source, target, meta.source_size, meta.target_size)

    def picture(self, i: int, side: Side) -> bytes:
        """One picture as encoded bytes, and nothing else of the sample is read. Raises IndexError, ShardError."""
        return self._read(self._index(i), MEMBERS.index(side))

    def is_written(self, i: int, side: Side, data: bytes) -> bool:
        """Whether these bytes are the picture that was written, by 64 bits of the index's sha256. Raises IndexError."""
        digest = hashlib.sha256(data).digest()
        written = self.columns.pictures[self._index(i), MEMBERS.index(side)]
        return int.from_bytes(digest[:8], sys.byteorder, signed=True) == int(written)

    def pair(self, i: int) -> EditPair:
        """The pair without its pictures; raises as indexing does."""
        i = self._index(i)
        where = f"{self._paths[self.columns.shard[i]]}: json of sample {self.ids[i]!r}"
        try:
            record = parse_json(self._read(i, _JSON))
        except ShardError:
            raise
        except ValueError as error:
            mend = "run editcaption validate-shards on the folder to see every problem"
            raise ShardError(f"{where} is {error}: {mend}") from None
        pair = EditPair.from_json(record, where=where)
        name = self.ids[i]  # in a job there may be a prefix before the record's own
        return pair if pair.id == name or not name.endswith(pair.id) else pair.model_copy(update={"id": name})

    def meta(self, i: int) -> SampleMeta:
        """Id and image sizes of one sample, from the index alone. Raises IndexError."""
        i = self._index(i)
        source, target = self._pixels[i].tolist()
        return SampleMeta(self.ids[i], tuple(source), tuple(target))

    def path(self, i: int) -> Path:
        """Of the tar that has the sample. Raises IndexError."""
        path: Path = self._paths[self.columns.shard[self._index(i)]]
        return path

    @property
    def folder(self) -> Path | None:
        """The folder whose samples these are, all of them as its index has them; None for a choice, or of several."""
        return self.columns.folder

    def close(self) -> None:
        """Close the files that reading opened. Call it when no thread reads any more; reading opens them again."""
        while self._files:
            os.close(self._files.popitem()[1])

    def __del__(self) -> None:
        self.close()

    def __enter__(self) -> "ShardReader":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def __getstate__(self) -> dict[str, Any]:
        return {"directories": self.directories, "columns": self.columns}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self._files, self.directories = {}, state["directories"]
        self.use(state["columns"])

    def __repr__(self) -> str:
        folders = ", ".join(map(str, self.directories))
        return f"ShardReader({folders}: {len(self)} samples, fingerprint {self.fingerprint[:12]})"

    def _index(self, i: int) -> int:
        if not -len(self) <= i < len(self):
            raise IndexError(f"sample {i} of {len(self)}")
        return int(i) % len(self)

    def _read(self, i: int, member: int) -> bytes:
        shard, size, offset = int(self._shard[i]), int(self._bytes[i, member]), int(self._offset[i, member])
        path = self._paths[shard]
        descriptor, stays_open = self._open(shard)
        try:
            content = os.pread(descriptor, size, offset)
        finally:
            if not stays_open:
                os.close(descriptor)
        if len(content) != size:
            raise ShardError(f"{path}: sample {self.ids[i]!r} ends past the end of the file: the tar was truncated")
        return content

    def _open(self, shard: int) -> tuple[int, bool]:
        """A file descriptor of the tar, and whether it stays open. Such a one is never evicted: another thread may be
        reading from it. No lock: one held during a fork would stay held in the child."""
        shared = self._files.get(shard)
        if shared is not None:
            return shared, True
        if (mirror := self._mirrors[self.columns.files[shard][0]]) is not None:
            return mirror.open(self.columns.files[shard][1]), False
        descriptor = os.open(self._paths[shard], os.O_RDONLY)
        if len(self._files) >= _MOST_OPEN_FILES:
            return descriptor, False
        shared = self._files.setdefault(shard, descriptor)
        if shared != descriptor:  # another thread opened it at the same time
            os.close(descriptor)
        return shared, True
