"""Arrays in one file that all processes of a machine map into their memory.

They are made from something else. The form is that of safetensors, with what they were made from in its metadata: a
file that says something else is made again.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.files import PARTIAL, naming, rename_whole

_DTYPES: dict[str, Any] = {"U8": np.uint8, "I8": np.int8, "I32": np.int32, "U32": np.uint32, "I64": np.int64}
_DTYPES |= {"F32": np.float32, "F64": np.float64}
_NAMES = {np.dtype(dtype): name for name, dtype in _DTYPES.items()}
_ALIGNMENT = 64  # bytes, of the first array
_LARGEST_HEADER = 64 << 20


@dataclass(frozen=True)
class ArrayFile:
    """A file of arrays with these names, types and shapes, made from `key` (JSON)."""

    path: Path
    key: Mapping[str, Any]
    arrays: Mapping[str, tuple[Any, tuple[int, ...]]]  # dtype and shape, in the order of the file

    def header(self) -> tuple[bytes, dict[str, int], int]:
        """-> the first bytes, where each array begins, and the bytes of the file."""
        entries: dict[str, Any] = {"__metadata__": {"key": _text(self.key)}}
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
        return self.path.with_name(self.path.name + PARTIAL)

    def begin(self) -> None:
        """Make the file under its name of one that is being written, without values. Raises OSError."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        first, _, size = self.header()
        with naming(self.partial), open(self.partial, "wb") as file:
            file.write(first)
            file.truncate(size)

    def fill(self, name: str, start: int, values: np.ndarray) -> None:
        """Write rows `start` .. of an array, on the disk when this returns. Raises OSError."""
        dtype, shape = self.arrays[name]
        _, starts, _ = self.header()
        row = int(np.prod(shape[1:], dtype=np.int64)) * np.dtype(dtype).itemsize
        with naming(self.partial), open(self.partial, "r+b") as file:
            file.seek(starts[name] + start * row)
            file.write(np.ascontiguousarray(values, dtype).data)
            file.flush()
            os.fsync(file.fileno())

    def publish(self) -> None:
        rename_whole(self.partial, self.path)


def write_arrays(path: Path, key: Mapping[str, Any], arrays: Mapping[str, np.ndarray]) -> None:
    """A whole file at once. Raises OSError."""
    file = ArrayFile(path, key, {name: (values.dtype, values.shape) for name, values in arrays.items()})
    file.begin()
    for name, values in arrays.items():
        file.fill(name, 0, values)
    file.publish()


def is_made_from(path: Path, key: Mapping[str, Any]) -> bool:
    """Whether the file is there, whole, and made from this."""
    return bool(_entries(path, key))


def map_arrays(path: Path, key: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """The arrays, read-only, of which only what is looked at is read. Raises ValueError for a file that is cut, or made
    from something else."""
    entries = _entries(path, key)
    if not entries:
        raise ValueError(f"{path} was changed or removed while the job started: start the same command again")
    arrays = {}
    for name, (dtype, shape, offset) in entries.items():
        empty = 0 in shape
        arrays[name] = np.empty(shape, dtype) if empty else np.memmap(path, dtype, "r", offset, shape)
    return arrays


def _text(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)


def _entries(path: Path, key: Mapping[str, Any]) -> dict[str, tuple[Any, tuple[int, ...], int]]:
    """dtype, shape and place of each array; {} for a file that is absent, cut, damaged or made from something else."""
    try:
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            entries = json.loads(file.read(min(length, _LARGEST_HEADER)))
            if entries.pop("__metadata__") != {"key": _text(key)}:
                return {}
            kinds = {name: (_DTYPES[e["dtype"]], tuple(e["shape"])) for name, e in entries.items()}
            first, starts, size = ArrayFile(path, key, kinds).header()
            if len(first) != 8 + length or os.fstat(file.fileno()).st_size != size:
                return {}
            return {name: (*kinds[name], starts[name]) for name in kinds}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        return {}
