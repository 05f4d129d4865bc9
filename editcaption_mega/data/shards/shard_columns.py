"""What is known of the samples of some folders without reading them, as arrays: from their index.json, or mapped from a
file that was made of them."""

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, overload

import numpy as np

from editcaption_mega.data.array_file import map_arrays

from .index import INDEX_NAME, MEMBERS, ShardError, ShardFile, load_index, size_problem


class Texts(Sequence[str]):
    """Texts that stand one after another in an array of UTF-8 [bytes] uint8; text i ends before ends[i] [N] int64."""

    def __init__(self, content: np.ndarray, ends: np.ndarray):
        self.content, self.ends = content, ends

    @classmethod
    def of(cls, texts: Iterable[str]) -> "Texts":
        encoded = [text.encode() for text in texts]
        ends = np.cumsum(np.fromiter(map(len, encoded), np.int64, len(encoded)))
        return cls(np.frombuffer(b"".join(encoded), np.uint8), ends)

    def __len__(self) -> int:
        return len(self.ends)

    @overload
    def __getitem__(self, i: int) -> str: ...
    @overload
    def __getitem__(self, i: slice) -> list[str]: ...
    def __getitem__(self, i: int | slice) -> str | list[str]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        if not -len(self) <= i < len(self):
            raise IndexError(f"text {i} of {len(self)}")
        i %= len(self)
        return self.content[self.ends[i - 1] if i else 0 : self.ends[i]].tobytes().decode()

    def __iter__(self) -> Iterator[str]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and list(self) == list(other)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class ShardColumns:
    """N samples in the tar files of some folders.

    shard [N]: its tar, as a place in `files`; offset, bytes [N, 3]: of source, target and json in it; pixels [N, 2, 2]:
    source, target; width, height; pictures [N, 2]: of the same, 8 bytes of their sha256; all int64"""

    directories: list[Path]
    files: list[tuple[int, ShardFile]]  # each tar with its folder, as a place in `directories`
    ids: Sequence[str]
    shard: np.ndarray
    offset: np.ndarray
    bytes: np.ndarray
    pixels: np.ndarray
    pictures: np.ndarray
    fingerprint: str
    table: tuple[Path, Mapping[str, Any]] | None = None  # the file that they are mapped from, and its key

    @classmethod
    def read(cls, directories: list[Path], id_prefixes: Sequence[str] = ()) -> "ShardColumns":
        """From their index.json. Raises ShardError as `open_shards`. id_prefixes: what stands before the ids of each
        folder; () for none."""
        prefixes = id_prefixes or [""] * len(directories)
        ids: list[str] = []
        files: list[tuple[int, ShardFile]] = []
        shards, offsets, sizes, pixels, pictures, fingerprints = [], [], [], [], [], []
        for folder, (directory, prefix) in enumerate(zip(directories, prefixes, strict=True)):
            index = load_index(directory)
            _refuse_other_sizes(directory, index.shards)
            for sample in index.samples:
                members = [getattr(sample, name) for name in MEMBERS]
                shards.append(len(files) + sample.shard)
                offsets.append([member.offset for member in members])
                sizes.append([member.bytes for member in members])
                pixels.append([(member.width, member.height) for member in members[:2]])
                pictures.append([_beginning(member.sha256) for member in members[:2]])
            ids += [prefix + sample.id for sample in index.samples]
            files += [(folder, shard) for shard in index.shards]
            fingerprints.append(index.fingerprint)
        _refuse_shared_ids(directories, ids)
        lists = (shards, offsets, sizes, pixels, pictures)
        shard, offset, size, pixel, picture = (np.array(values, np.int64) for values in lists)
        # One folder keeps the fingerprint of its index; several are hashed together, in order.
        fingerprint = fingerprints[0] if len(fingerprints) == 1 else _joint(fingerprints)
        if any(prefixes):
            fingerprint = _joint([fingerprint, *prefixes])
        return cls(directories, files, ids, shard, offset, size, pixel, picture, fingerprint)

    @property
    def paths(self) -> list[Path]:
        return [self.directories[folder] / shard.name for folder, shard in self.files]

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
        ids = [self.ids[row] for row in rows]
        columns = (self.shard, self.offset, self.bytes, self.pixels, self.pictures)
        shard, offset, size, pixels, pictures = (values[rows] for values in columns)
        return ShardColumns(self.directories, self.files, ids, shard, offset, size, pixels, pictures, fingerprint)

    def to_arrays(self) -> dict[str, np.ndarray]:
        """All but the folders, as `from_arrays` takes it."""
        ids = self.ids if isinstance(self.ids, Texts) else Texts.of(self.ids)
        texts = Texts.of([self.fingerprint, *(text for _, file in self.files for text in (file.name, file.sha256))])
        numbers = [(folder, file.bytes, file.samples) for folder, file in self.files]
        return {
            "ids": ids.content, "id_ends": ids.ends, "shard": self.shard, "offset": self.offset, "bytes": self.bytes,
            "pixels": self.pixels, "pictures": self.pictures, "texts": texts.content, "text_ends": texts.ends,
            "files": np.array(numbers, np.int64),
        }  # fmt: skip

    @classmethod
    def from_arrays(cls, directories: list[Path], arrays: Mapping[str, np.ndarray], **more: Any) -> "ShardColumns":
        fingerprint, *texts = Texts(arrays["texts"], arrays["text_ends"])
        files = [
            (folder, ShardFile(texts[2 * k], size, texts[2 * k + 1], samples))
            for k, (folder, size, samples) in enumerate(arrays["files"].tolist())
        ]
        ids = Texts(arrays["ids"], arrays["id_ends"])
        names = ("shard", "offset", "bytes", "pixels", "pictures")
        shard, offset, size, pixels, pictures = (arrays[name] for name in names)
        return cls(directories, files, ids, shard, offset, size, pixels, pictures, fingerprint, **more)

    @classmethod
    def map(cls, directories: list[Path], path: Path, key: Mapping[str, Any]) -> "ShardColumns":
        """From a file of their arrays. Raises ValueError as `map_arrays`."""
        return cls.from_arrays(directories, map_arrays(path, key), table=(path, key))

    def check_files(self) -> None:
        """Raises ShardError for a tar that is missing or of another size, as opening the folders does."""
        for folder, directory in enumerate(self.directories):
            _refuse_other_sizes(directory, [shard for at, shard in self.files if at == folder])

    def __reduce__(self) -> Any:
        """What is mapped is mapped again by the process that gets it."""
        if self.table is not None:
            return ShardColumns.map, (self.directories, *self.table)
        return super().__reduce__()


def _beginning(sha256: str) -> int:
    return int.from_bytes(bytes.fromhex(sha256[:16]), "little", signed=True)


def state_of(directories: list[Path]) -> list[list[Any]]:
    """Each folder with what tells whether its index.json is still the same: its size and time. Raises OSError."""
    statuses = [(directory / INDEX_NAME).stat() for directory in directories]
    return [[str(at), status.st_size, status.st_mtime_ns] for at, status in zip(directories, statuses, strict=True)]


def _refuse_other_sizes(directory: Path, shards: Iterable[ShardFile]) -> None:
    for shard in shards:
        if problem := size_problem(directory, shard):
            raise ShardError(problem)


def _refuse_shared_ids(directories: list[Path], ids: list[str]) -> None:
    if len(set(ids)) == len(ids):
        return
    twice = next(name for name, count in Counter(ids).items() if count > 1)
    folders = ", ".join(map(str, directories))
    raise ShardError(
        f"id {twice!r} occurs twice in {folders}: results are joined by id, so ids must be unique; a "
        "training job can put something else before those of each folder (data.id_prefixes)"
    )


def _joint(fingerprints: list[str]) -> str:
    return hashlib.sha256("\n".join(fingerprints).encode()).hexdigest()
