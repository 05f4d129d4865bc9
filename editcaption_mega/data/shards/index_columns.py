"""The samples of an index as arrays: a million of them are opened by mapping a file and are in no process's memory."""

import hashlib
import struct
from collections.abc import Iterable, Iterator, Mapping, Sequence
from tempfile import SpooledTemporaryFile, gettempdir
from typing import Any, overload

import numpy as np

from editcaption_mega.data.images.decode import LARGEST_MAX_PIXELS
from editcaption_mega.files import naming
from editcaption_mega.records import shown

from .layout import (
    ID_BYTES,
    LARGEST_FORM,
    LARGEST_MEMBER,
    MEMBERS,
    IndexedSample,
    Member,
    ShardFile,
    member_forms,
    name_of,
)
from .text_arrays import Texts

_ROWS_AT_ONCE = 1 << 16
# Each array's type and what follows its N rows; the widest first, as they stand in a file without gaps.
_ARRAYS: dict[str, tuple[Any, tuple[int, ...]]] = {
    "id_ends": (np.int64, ()), "offset": (np.int64, (3,)), "sha256": (np.uint8, (3, 32)), "shard": (np.int32, ()),
    "bytes": (np.int32, (3,)), "pixels": (np.int32, (2, 2)), "form": (np.uint8, (3,)),
}  # fmt: skip
_ROW = np.dtype([(name, dtype, shape) for name, (dtype, shape) in _ARRAYS.items()])
_PACKED = struct.Struct("=q3q96si3i4i3s")  # a row
_BYTES_IN_MEMORY = _BYTES_AT_ONCE = 1 << 18
_ROWS_READ = 1 << 11
_OF_IDS = np.isin(np.arange(256), np.frombuffer(ID_BYTES, np.uint8))


class IndexColumns(Sequence[IndexedSample]):
    """N samples in their order.

    ids; shard [N] int32: the place of its tar in the index; offset [N, 3] int64, bytes [N, 3] int32, sha256 [N, 3, 32]
    uint8 and form [N, 3] uint8 (of its name, see layout.name_of): of source, target and json; pixels [N, 2, 2] int32:
    source, target; width, height."""

    def __init__(self, arrays: Mapping[str, np.ndarray]):
        """arrays: by the names above, ids as `ids` [bytes] uint8 and `id_ends` [N] int64, both as of `Texts`."""
        self.arrays = {name: arrays[name] for name in (*_ARRAYS, "ids")}
        self.ids = Texts(arrays["ids"], arrays["id_ends"])
        names = ("shard", "offset", "bytes", "pixels", "sha256", "form")
        self.shard, self.offset, self.bytes, self.pixels, self.sha256, self.form = (arrays[name] for name in names)

    @classmethod
    def of(cls, samples: Iterable[IndexedSample]) -> "IndexColumns":
        if isinstance(samples, IndexColumns):
            return samples
        builder = ColumnsBuilder()
        for sample in samples:
            builder.add(sample)
        return builder.columns()

    @property
    def is_mapped(self) -> bool:
        return isinstance(self.offset, np.memmap)

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, i: int) -> IndexedSample: ...
    @overload
    def __getitem__(self, i: slice) -> list[IndexedSample]: ...
    def __getitem__(self, i: int | slice) -> IndexedSample | list[IndexedSample]:
        if isinstance(i, slice):
            return [self[k] for k in range(*i.indices(len(self)))]
        return self._sample(self.ids[i], i)

    def __iter__(self) -> Iterator[IndexedSample]:
        return (self._sample(name, i) for i, name in enumerate(self.ids))

    def fingerprint(self) -> str:
        """sha256 (hex) over id and content of every sample, in order.

        Splitting the same samples into other shards leaves it unchanged; changing, adding or reordering samples
        doesn't: sample indices, and so a resumed run, depend on the order."""
        digest = hashlib.sha256()
        for name, sha256 in zip(self.ids, self._hex(), strict=True):
            digest.update(_listed(name, sha256[:64], sha256[64:128], sha256[128:]))
        return digest.hexdigest()

    def kinds(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """The type and shape of each array."""
        return {name: (values.dtype, values.shape) for name, values in self.arrays.items()}

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """An array by parts: in one."""
        yield self.arrays[name]

    def problem(self, shards: Sequence[ShardFile]) -> str | None:
        """What of the arrays no index can hold, in words; None for such as were made by `write_index`."""
        ends = self.arrays["id_ends"]
        count = len(ends)
        for name, (dtype, shape) in _ARRAYS.items():
            values = self.arrays[name]
            if values.dtype != dtype or values.shape != (count, *shape):
                return f"{name} is {values.dtype} {list(values.shape)}, expected {np.dtype(dtype)} {[count, *shape]}"
        ids = self.arrays["ids"]
        if ids.dtype != np.uint8 or ids.ndim != 1 or (count and int(ends[-1]) != len(ids)):
            return "the ids are not as long as their ends say"
        sizes_of_shards = np.array([shard.bytes for shard in shards], np.int64)
        begin = 0
        for first in range(0, count, _ROWS_AT_ONCE):
            rows = slice(first, first + _ROWS_AT_ONCE)
            sizes = np.diff(ends[rows], prepend=begin)
            if ((sizes < 1) | (sizes > 200)).any():
                return "an id has no characters, or more than 200"
            begin_of_ids, begin = begin, int(ends[rows][-1])
            if not _OF_IDS[ids[begin_of_ids:begin]].all():
                return "an id holds other characters than letters, digits, '-' and '_'"
            if row := self._first_wrong(rows, sizes_of_shards):
                return row
        return None

    def _first_wrong(self, rows: slice, sizes_of_shards: np.ndarray) -> str | None:
        shard, offset, size = self.shard[rows], self.offset[rows], self.bytes[rows]
        if wrong := _where((shard < 0) | (shard >= len(sizes_of_shards))):
            return f"sample {self._shown(rows, wrong)} lies in shard {shard[wrong]} of {len(sizes_of_shards)}"
        if wrong := _where((self.form[rows] > LARGEST_FORM).any(1)):
            return f"sample {self._shown(rows, wrong)} has a member whose name has no such form"
        if wrong := _where((size < 0) | (size > np.array([LARGEST_MEMBER[part] for part in MEMBERS]))):
            part = MEMBERS[wrong[1]]
            return (
                f"the {part} of sample {self._shown(rows, wrong)} has {size[wrong]} bytes, more than the "
                f"{LARGEST_MEMBER[part]} that it may have"
            )
        if wrong := _where((offset < 0) | (offset > sizes_of_shards[shard][:, None] - size)):
            return f"the {MEMBERS[wrong[1]]} of sample {self._shown(rows, wrong)} lies outside its shard"
        width, height = (self.pixels[rows][..., side].astype(np.int64) for side in (0, 1))
        if wrong := _where((width < 1) | (height < 1) | (width * height > LARGEST_MAX_PIXELS)):
            return (
                f"the {MEMBERS[wrong[1]]} of sample {self._shown(rows, wrong)} has {width[wrong]} x {height[wrong]} "
                f"pixels, expected 1 to {LARGEST_MAX_PIXELS}"
            )
        return None

    def _shown(self, rows: slice, wrong: tuple[int, ...]) -> str:
        return shown(self.ids[rows.start + wrong[0]])

    def _sample(self, name: str, i: int) -> IndexedSample:
        sha256, offset, size, form = self.sha256[i], self.offset[i].tolist(), self.bytes[i].tolist(), self.form[i]
        sides = [*self.pixels[i].tolist(), (None, None)]
        members = (
            Member(name_of(name, part, int(form[k])), offset[k], size[k], sha256[k].tobytes().hex(), *sides[k])
            for k, part in enumerate(MEMBERS)
        )
        return IndexedSample(name, int(self.shard[i]), *members)

    def _hex(self) -> Iterator[str]:
        for first in range(0, len(self), _ROWS_AT_ONCE):
            content = self.sha256[first : first + _ROWS_AT_ONCE].tobytes().hex()
            yield from (content[k : k + 192] for k in range(0, len(content), 192))


def _where(wrong: np.ndarray) -> tuple[int, ...] | None:
    """The place of the first True."""
    if not wrong.any():
        return None
    return tuple(int(k) for k in np.unravel_index(int(np.argmax(wrong)), wrong.shape))


class ColumnsBuilder:
    """Adds samples one by one; those that are more than a few are on the disk, in a file that has no name."""

    def __init__(self) -> None:
        self._rows = SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115 (gone with this)
        self._ids = SpooledTemporaryFile(_BYTES_IN_MEMORY)  # noqa: SIM115
        self._count = self._id_bytes = 0
        self._digest = hashlib.sha256()

    def __len__(self) -> int:
        return self._count

    def add(self, sample: IndexedSample) -> None:
        """Raises OSError where the disk is full."""
        members = (sample.source, sample.target, sample.json)
        name = sample.id.encode()
        self._count, self._id_bytes = self._count + 1, self._id_bytes + len(name)
        sides = (side or 0 for member in members[:2] for side in (member.width, member.height))
        row = _PACKED.pack(
            self._id_bytes, *(member.offset for member in members),
            bytes.fromhex("".join(member.sha256 for member in members)), sample.shard,
            *(member.bytes for member in members), *sides, bytes(member_forms(member.name for member in members)),
        )  # fmt: skip
        with naming(gettempdir()):
            self._rows.write(row)
            self._ids.write(name)
        self._digest.update(_listed(sample.id, *(member.sha256 for member in members)))

    def fingerprint(self) -> str:
        """As of the columns."""
        return self._digest.copy().hexdigest()

    def kinds(self) -> dict[str, tuple[Any, tuple[int, ...]]]:
        """The type and shape of each array."""
        kinds = {name: (dtype, (self._count, *shape)) for name, (dtype, shape) in _ARRAYS.items()}
        return kinds | {"ids": (np.uint8, (self._id_bytes,))}

    def blocks(self, name: str) -> Iterator[np.ndarray]:
        """An array by parts, of the samples that were added."""
        file, size = (self._ids, _BYTES_AT_ONCE) if name == "ids" else (self._rows, _ROW.itemsize * _ROWS_READ)
        with naming(gettempdir()):
            file.seek(0)
            while block := file.read(size):
                yield np.frombuffer(block, np.uint8) if name == "ids" else np.frombuffer(block, _ROW)[name]

    def columns(self) -> IndexColumns:
        """Of the samples that were added, in memory."""
        arrays = {}
        for name, (dtype, shape) in self.kinds().items():
            arrays[name] = np.concatenate([np.empty((0, *shape[1:]), dtype), *self.blocks(name)])
        return IndexColumns(arrays)


def _listed(name: str, *sha256: str) -> bytes:
    """A sample as its fingerprint has it: id, and hashes (hex) of source, target and json."""
    return "\t".join((name, *sha256)).encode() + b"\n"
