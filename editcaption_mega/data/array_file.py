"""Arrays in one file that all processes of a machine map into their memory.

They are made from something else. The form is that of safetensors, with what they were made from in its metadata: a
file that says something else, or that is not as it was written, is made again.
"""

import json
import os
import secrets
import zlib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.files import PARTIAL, naming, rename_whole

_DTYPES: dict[str, Any] = {"U8": np.uint8, "I8": np.int8, "I32": np.int32, "U32": np.uint32, "I64": np.int64}
_DTYPES |= {"F32": np.float32, "F64": np.float64}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64  # bytes, of the first array
_LARGEST_HEADER = 64 << 20
_CHECKED_AT_ONCE = 16 << 20


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays with these names, types and shapes, made from `key` (JSON)."""

    path: Path
    key: Mapping[str, Any]
    arrays: Mapping[str, tuple[Any, tuple[int, ...]]]  # dtype and shape, in the order of the file
    checksum: int | None = None  # CRC-32 of all else, where the values are known before the file is made
    writer: str = ""  # in the name while it is written, where others may write the same file

    def checksum_begun(self) -> int:
        """The checksum before the values."""
        return zlib.crc32(replace(self, checksum=None).header()[0])

    def header(self) -> tuple[bytes, dict[str, int], int]:
        """-> the first bytes, where each array begins, and the bytes of the file."""
        metadata = {"key": _text(self.key)} | ({} if self.checksum is None else {"crc32": str(self.checksum)})
        entries: dict[str, Any] = {"__metadata__": metadata}
        starts, end = {}, 0
        for name, (dtype, shape) in self.arrays.items():
            size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
            entries[name] = {"dtype": _NAMES[np.dtype(dtype)], "shape": list(shape), "data_offsets": [end, end + size]}
            starts[name], end = end, end + size
        header = json.dumps(entries).encode()
        header += b" " * (-(8 + len(header)) % _ALIGNMENT)
        first = len(header).to_bytes(8, "little") + header
        return first, {name: len(first) + start for name, start in starts.items()}, len(first) + end

    @property
    def partial(self) -> Path:
        return self.path.with_name(self.path.name + self.writer + PARTIAL)

    def begin(self) -> None:
        """Make the file under its name of one that is being written, without values. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        first, _, size = self.header()
        with naming(self.partial), open(self.partial, "wb") as file:
            file.write(first)
            file.truncate(size)

    def fill(self, name: str, start: int, values: np.ndarray) -> None:
        """Write rows `start` .. of an array, on the disk when this returns. Raises OSError."""
        self.fill_blocks(name, start, [values])

    def fill_blocks(self, name: str, start: int, blocks: Iterable[np.ndarray]) -> None:
        """The same of rows that come by parts."""
        dtype, shape = self.arrays[name]
        _, starts, _ = self.header()
        row = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        with naming(self.partial), open(self.partial, "r+b") as file:
            file.seek(starts[name] + start * row)
            for values in blocks:
                file.write(np.ascontiguousarray(values, dtype).data)
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        rename_whole(self.partial, self.path)


def write_arrays(path: Path, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray], *, alone: bool = True) -> None:
    """A whole file at once. alone: no other process writes it at the same time. Raises OSError."""
    kinds = {name: (values.dtype, values.shape) for name, values in arrays.items()}
    write_blocks(path, key, kinds, lambda name: [arrays[name]], alone=alone)


def write_blocks(
    path: Path,
    key: Mapping[str, Any],
    kinds: Mapping[str, tuple[Any, tuple[int, ...]]],
    blocks: Callable[[str], Iterable[np.ndarray]],
    *,
    alone: bool = True,
) -> None:
    """The same of arrays that need not be in memory: the type and shape of each, and what gives its parts, twice."""
    file = ArrayFile(path, key, kinds, writer="" if alone else f".{os.getpid()}-{secrets.token_hex(4)}")
    checksum = file.checksum_begun()
    for name in kinds:
        for values in blocks(name):
            checksum = zlib.crc32(np.ascontiguousarray(values).reshape(-1).view(np.uint8), checksum)
    file = replace(file, checksum=checksum)
    file.begin()
    for name in kinds:
        file.fill_blocks(name, 0, blocks(name))
    file.publish()


def is_made_from(path: Path, key: Mapping[str, Any]) -> bool:
    """Whether the file is there, whole, made from this, and has its checksum. Reads all of it."""
    file = _file_there(path, key)
    return file is not None and _has_its_checksum(file)


def map_arrays(path: Path, key: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays, read-only, of which only what is looked at is read. Raises ValueError for a file that is cut, or made
    from something else."""
    file = _file_there(path, key)
    if file is None:
        raise ValueError(f"{path} was changed or removed while the job started: start the same command again")
    _, starts, _ = file.header()
    return {
        name: np.empty(shape, dtype) if 0 in shape else np.memmap(path, dtype, "r", starts[name], shape)
        for name, (dtype, shape) in file.arrays.items()
    }


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _has_its_checksum(there: ArrayFile) -> bool:
    """True, too, where a file whose parts were filled one by one has none."""
    if there.checksum is None:
        return True
    checksum = there.checksum_begun()
    with open(there.path, "rb") as file:
        file.seek(len(there.header()[0]))
        while chunk := file.read(_CHECKED_AT_ONCE):
            checksum = zlib.crc32(chunk, checksum)
    return checksum == there.checksum


def _file_there(path: Path, key: Mapping[str, Any]) -> ArrayFile | None:
    """None for a file that is absent, cut, damaged before its values, or made from something else."""
    try:
        with open(path, "rb") as file:
            beginning = file.read(8)
            beginning += file.read(min(int.from_bytes(beginning, "little"), _LARGEST_HEADER))
            entries = json.loads(beginning[8:])
            metadata = entries.pop("__metadata__")
            kinds = {name: (_DTYPES[e["dtype"]], tuple(e["shape"])) for name, e in entries.items()}
            there = ArrayFile(path, key, kinds, int(metadata["crc32"]) if "crc32" in metadata else None)
            first, _, size = there.header()
            return there if kinds and first == beginning and os.fstat(file.fileno()).st_size == size else None
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return None
