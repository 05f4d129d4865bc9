"""What is known of the samples of some folders without reading them, as arrays: from their index.json, or mapped from a
file that was made of them."""

import hashlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.data.array_file import map_arrays

from .index import INDEX_NAME, load_index, size_problem
from .layout import ADDRESS_NAME, ShardError, ShardFile
from .text_arrays import Texts, repeated


@dataclass(frozen=True)
class ShardColumns:
    """N samples in the tar files of some folders.

    shard [N]: its tar, as a place in `files`; offset, bytes [N, 3]: of source, target and json in it; pixels [N, 2, 2]:
    source, target; width, height; pictures [N, 2] int64: of the same, 8 bytes of their sha256. The others are int32 or
    int64, so arithmetic with them begins with `astype(np.int64)`."""

    directories: list[Path]
    files: list[tuple[int, ShardFile]]  # each tar with its folder, as a place in `directories`
    ids: Texts
    shard: np.ndarray
    offset: np.ndarray
    bytes: np.ndarray
    pixels: np.ndarray
    pictures: np.ndarray
    fingerprint: str
    source: "MappedFrom | None" = None  # the file that they are mapped from

    @classmethod
    def read(cls, directories: list[Path], id_prefixes: Sequence[str] = ()) -> "ShardColumns":
        """From the index of each. Raises ShardError as `open_shards`. id_prefixes: what stands before the ids of each
        folder; () for none."""
        prefixes = id_prefixes or [""] * len(directories)
        parts = [cls.of_folder(directory) for directory in directories]
        if len(parts) == 1 and not prefixes[0]:
            return parts[0]
        files = [(folder, file) for folder, part in enumerate(parts) for _, file in part.files]
        starts = np.cumsum([0, *(len(part.files) for part in parts)])
        shard = np.concatenate([part.shard + start for part, start in zip(parts, starts, strict=False)])
        named = [part.ids.with_prefix(prefix) for part, prefix in zip(parts, prefixes, strict=True)]
        ids = Texts.joined(named)
        _refuse_shared_ids(directories, ids)
        # One folder keeps the fingerprint of its index; several are hashed together, in order.
        fingerprint = parts[0].fingerprint if len(parts) == 1 else _joint([part.fingerprint for part in parts])
        if any(prefixes):
            fingerprint = _joint([fingerprint, *prefixes])
        names = ("offset", "bytes", "pixels", "pictures")
        offset, size, pixels, pictures = (np.concatenate([getattr(part, name) for part in parts]) for name in names)
        return cls(directories, files, ids, shard, offset, size, pixels, pictures, fingerprint)

    @classmethod
    def of_folder(cls, directory: Path, *, check: bool = True) -> "ShardColumns":
        """check: False where another process of the job has looked at the entries and the tars. Raises ShardError."""
        index = load_index(directory, check=check)
        if check:
            _refuse_other_sizes(directory, index.shards)
        files, samples = [(0, shard) for shard in index.shards], index.samples
        pictures = samples.sha256.view(np.int64)[:, :2, 0]
        source = MappedFrom({"fingerprint": index.fingerprint}) if samples.is_mapped else None
        return cls(
            [directory], files, samples.ids, samples.shard, samples.offset, samples.bytes, samples.pixels, pictures,
            index.fingerprint, source,
        )  # fmt: skip

    @property
    def paths(self) -> list[Path]:
        return [self.directories[folder] / shard.name for folder, shard in self.files]

    @property
    def folder(self) -> Path | None:
        """The one folder whose samples these are, all of them and as its index has them."""
        whole = self.source is not None and self.source.table is None
        return self.directories[0] if whole else None

    @property
    def sizes(self) -> list[int]:
        """Samples of each folder, which stand one after another."""
        folders = np.array([folder for folder, _ in self.files], np.int64)
        sizes: list[int] = np.bincount(folders[self.shard], minlength=len(self.directories)).tolist()
        return sizes

    @property
    def indexed(self) -> int:
        """Samples that the folders have, of which these may be a part."""
        return sum(shard.samples for _, shard in self.files)

    def take(self, rows: np.ndarray) -> "ShardColumns":
        """A part of the samples, in their order; its fingerprint is its own. rows [n] int64, ascending."""
        fingerprint = _joint([self.fingerprint, hashlib.sha256(rows.astype("<i8").tobytes()).hexdigest()])
        ids = self.ids.take(rows)
        columns = (self.shard, self.offset, self.bytes, self.pixels, self.pictures)
        shard, offset, size, pixels, pictures = (values[rows] for values in columns)
        return ShardColumns(self.directories, self.files, ids, shard, offset, size, pixels, pictures, fingerprint)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All but the folders, as `from_arrays` takes it."""
        texts = Texts.of([self.fingerprint, *(text for _, file in self.files for text in (file.name, file.sha256))])
        numbers = [(folder, file.bytes, file.samples) for folder, file in self.files]
        return {
            "id_ends": self.ids.ends, "offset": self.offset, "pictures": self.pictures, "shard": self.shard,
            "bytes": self.bytes, "pixels": self.pixels, "files": np.array(numbers, np.int64),
            "text_ends": texts.ends, "texts": texts.content, "ids": self.ids.content,
        }  # fmt: skip

    @classmethod
    def from_arrays(
        cls, directories: list[Path], arrays: Mapping[str, np.ndarray], source: "MappedFrom | None" = None
    ) -> "ShardColumns":
        fingerprint, *texts = Texts(arrays["texts"], arrays["text_ends"])
        files = [
            (folder, ShardFile(texts[2 * k], size, texts[2 * k + 1], samples))
            for k, (folder, size, samples) in enumerate(arrays["files"].tolist())
        ]
        ids = Texts(arrays["ids"], arrays["id_ends"])
        names = ("shard", "offset", "bytes", "pixels", "pictures")
        shard, offset, size, pixels, pictures = (arrays[name] for name in names)
        return cls(directories, files, ids, shard, offset, size, pixels, pictures, fingerprint, source)

    def check_files(self) -> None:
        """Raises ShardError for a tar that is missing or of another size, as opening the folders does."""
        for folder, directory in enumerate(self.directories):
            _refuse_other_sizes(directory, [shard for at, shard in self.files if at == folder])

    def __reduce__(self) -> Any:
        """What is mapped is mapped again by the process that gets it."""
        if self.source is not None:
            return MappedFrom.columns, (self.source, self.directories)
        return super().__reduce__()


@dataclass(frozen=True)
class MappedFrom:
    """What columns are mapped from: a file of their arrays with this key; or, without one, the index of their one
    folder, with its fingerprint as the key."""

    key: Mapping[str, Any]
    table: Path | None = None

    def columns(self, directories: list[Path]) -> ShardColumns:
        """Raises ValueError where it is no longer what it was."""
        if self.table is not None:
            return ShardColumns.from_arrays(directories, map_arrays(self.table, self.key), self)
        columns = ShardColumns.of_folder(directories[0], check=False)
        if columns.fingerprint != self.key["fingerprint"]:
            raise ShardError(f"{directories[0]} was changed while it was in use: start the same command again")
        return columns


def state_of(directories: list[Path]) -> list[list[Any]]:
    """Each folder with what tells whether its index.json is still the same: its size and time. Raises OSError."""
    statuses = [(directory / INDEX_NAME).stat() for directory in directories]
    return [[str(at), status.st_size, status.st_mtime_ns] for at, status in zip(directories, statuses, strict=True)]


def _refuse_other_sizes(directory: Path, shards: Iterable[ShardFile]) -> None:
    if (directory / ADDRESS_NAME).exists():
        return  # of shards at an address each tar is checked when it is fetched
    for shard in shards:
        if problem := size_problem(directory, shard):
            raise ShardError(problem)


def _refuse_shared_ids(directories: list[Path], ids: Texts) -> None:
    if rows := repeated(ids):
        folders = ", ".join(map(str, directories))
        raise ShardError(
            f"id {ids[rows[0]]!r} occurs twice in {folders}: results are joined by id, so ids must be unique; a "
            "training job can put something else before those of each folder (data.id_prefixes)"
        )


def _joint(fingerprints: list[str]) -> str:
    return hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()
