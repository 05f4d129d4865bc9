"""Sharded tensors on disk: safetensors files and one JSON manifest, readable at any layout, never un-pickled.

A store is a folder of `*.safetensors`, each written by one rank, whatever other files were put into it before it was
finished, and `tensors.json` (`manifest.py`): every canonical tensor with its shape, dtype and the boxes that make it
up, every file with its checksum. The manifest is written last; a folder without it is not a checkpoint.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, cast

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.files import write_atomically
from editcaption_mega.model import ADAPTERS, Architecture
from editcaption_mega.words import one_line

from .local_copies import LocalCopies
from .manifest import (
    FORMAT,
    MANIFEST,
    MEND,
    DamagedCheckpointError,
    Manifest,
    StoredBox,
    StoredFile,
    StoredTensor,
    file_problem,
    read_manifest,
)
from .rules import Box, Rule, Shape, rules_for
from .tensor_file import DTYPES, MappedTensors, in_own_memory, sha256_of, write_tensors

FILE_BYTES = 4 << 30  # of tensors that a rank holds on the host before it writes them
WEIGHTS = "weights/"  # prefix of weight tensors in a store; optimizer state has others
MASTERS = "param/"  # of the optimizer's fp32 copy of them


class StoreWriter:
    """Collects this rank's boxes, then writes them; `finish` is collective.

    group: over which ranks talk, in a thread of its own. copies: false where values stay as they are until they are
    written, and are on the host."""

    def __init__(
        self,
        folder: str | Path,
        *,
        metadata: dict[str, Any] | None = None,
        max_file_bytes: int = FILE_BYTES,
        group: platform.Group = None,
        copies: bool = True,
    ):
        self.folder, self.max_file_bytes = Path(folder), max_file_bytes
        self.metadata, self.group, self.copies = metadata or {}, group, copies
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._tensors: dict[str, StoredTensor] = {}
        self._files: dict[str, StoredFile] = {}
        self._error: OSError | None = None  # raised by `finish`: callers talk to other ranks between two `add`s

    def add(self, key: str, shape: Shape, box: Box, values: Tensor) -> None:
        """`values` is the box of tensor `key`, whose whole shape is `shape`. What is on a GPU is copied in the order of
        its stream, so that the next step may change it at once."""
        if self._error is not None:
            return
        values = values.detach().reshape(box.shape)
        if self.copies:
            values = platform.staged_on_host(values)
        if self._pending_bytes and self._pending_bytes + values.nbytes > self.max_file_bytes:
            self._flush()
        inside = f"{key}@{','.join(map(str, box.start))}"
        self._pending[inside] = values
        self._pending_bytes += values.nbytes
        dtype = str(values.dtype).removeprefix("torch.")
        tensor = self._tensors.setdefault(key, StoredTensor(shape=list(shape), dtype=dtype, boxes=[]))
        tensor.boxes.append(
            StoredBox(start=list(box.start), length=list(box.shape), inside=inside, file=self._file_name())
        )

    def add_range(self, key: str, shape: Shape, box: Box, start: int, values: Tensor) -> None:
        """`values` [n] are the elements from `start` of the box, flattened: what a data-parallel rank has of it."""
        at = 0
        for part in box.flat_range(start, start + values.numel()):
            self.add(key, shape, part, values[at : at + part.size])
            at += part.size

    def finish(self) -> None:
        """Write what is left, then the manifest on rank 0. Raises OSError on every rank when any rank failed."""
        self._flush()
        platform.raise_together(self._error, self.group)
        parts = platform.gather_on_rank_zero((self._tensors, self._files), self.group)
        with platform.together(self.group):
            if platform.is_rank_zero():
                write_manifest(self.folder, self.metadata, parts)

    def _file_name(self) -> str:
        return f"rank{platform.rank():05d}-{len(self._files):04d}.safetensors"

    def _flush(self) -> None:
        if not self._pending or self._error is not None:
            return
        name = self._file_name()
        if self.copies:
            platform.wait_for_staged()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            digest = write_tensors(self.folder / name, self._pending)
            self._files[name] = StoredFile(bytes=(self.folder / name).stat().st_size, sha256=digest)
        except OSError as error:
            self._error = error
        self._pending, self._pending_bytes = {}, 0

    @property
    def digests(self) -> dict[str, str]:
        """sha256 of each file that this rank has written, by name in the folder."""
        return {name: file.sha256 for name, file in self._files.items() if file.sha256}


def write_manifest(
    folder: Path, metadata: dict[str, Any], parts: Iterable[tuple[dict[str, StoredTensor], dict[str, StoredFile]]]
) -> None:
    """Make a store of a folder: of each writer the tensors that it wrote, and its files; whatever else lies there is
    hashed."""
    manifest = Manifest(format=FORMAT, metadata=cast(Any, metadata), files={}, tensors={})
    for tensors, files in parts:
        manifest.files |= files
        for key, tensor in tensors.items():
            whole = manifest.tensors.setdefault(key, StoredTensor(shape=tensor.shape, dtype=tensor.dtype, boxes=[]))
            whole.boxes.extend(tensor.boxes)
    folder.mkdir(parents=True, exist_ok=True)  # a store may have no tensor of this rank
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file() and name not in manifest.files:
            manifest.files[name] = StoredFile(bytes=path.stat().st_size, sha256=sha256_of(path))
    write_atomically(folder / MANIFEST, manifest.to_bytes())


class StoreReader:
    """Reads any box of any tensor of a store, touching only the bytes that it needs.

    Opening it checks the manifest and the sizes of the tensors' files; `verify.py` checks their bytes. local: copies
    that are read instead where they serve; `verify_checkpoint` with the same ones has looked at them."""

    def __init__(self, folder: str | Path, local: LocalCopies | None = None):
        self.folder = Path(folder)
        self.manifest = read_manifest(self.folder)
        self.tensors, self.metadata = self.manifest.tensors, dict(self.manifest.metadata)
        serve = local is not None and self.manifest.has_checksums and self.metadata.get("layout") == local.layout
        self._local = local if serve else None
        self._open: dict[str, MappedTensors] = {}
        self._boxes_of: dict[str, list[tuple[str, StoredBox]]] = {}  # by file: (dtype in safetensors' name, box)
        for key, tensor in self.tensors.items():
            for stored in tensor.boxes:
                self._boxes_of.setdefault(stored.file, []).append((DTYPES[self.dtype(key)], stored))
        for name in self._boxes_of:
            path, expected = self.folder / name, self.manifest.files[name].bytes
            size = path.stat().st_size if path.is_file() else None
            if size != expected:
                what = "is missing" if size is None else f"has {size} bytes"
                raise DamagedCheckpointError(
                    f"{path} {what}, {MANIFEST} says {expected} bytes: the copy is incomplete; {MEND}"
                )

    def shape(self, key: str) -> Shape:
        return tuple(self.tensors[key].shape)

    def dtype(self, key: str) -> torch.dtype:
        dtype: torch.dtype = getattr(torch, self.tensors[key].dtype)
        return dtype

    def read(self, key: str, box: Box | None = None) -> Tensor:
        """The box (None: all) of tensor `key`. Raises ValueError when the store has no such tensor, or another one."""
        return in_own_memory(self.view(key, box))

    def view(self, key: str, box: Box | None = None) -> Tensor:
        """As `read`; where one file has the box, its values there: for who only copies or compares them, since
        they change with the file and are aligned to 8 bytes."""
        if key not in self.tensors:
            raise ValueError(f"{self.folder} holds no tensor {key!r}: it is a checkpoint of another model")
        shape = self.shape(key)
        box = box or Box.whole(shape)
        if len(box.shape) != len(shape) or any(end > length for end, length in zip(box.end, shape, strict=True)):
            raise ValueError(
                f"{self.folder}: {key!r} has shape {list(shape)} and lacks the region up to {list(box.end)}: it is a "
                "checkpoint of another model"
            )
        parts = [(stored, stored.box.intersect(box)) for stored in self.tensors[key].boxes]
        parts = [(stored, common, self._file(stored.file)) for stored, common in parts if common is not None]
        if len(parts) == 1:
            stored, common, file = parts[0]
            if common == box:
                return file[stored.inside][common.within(stored.box)]
        out = torch.empty(box.shape, dtype=self.dtype(key))
        for stored, common, file in parts:
            out[common.within(box)] = file[stored.inside][common.within(stored.box)]
        return out

    def read_range(self, key: str, box: Box, start: int, end: int) -> Tensor:
        """Elements [start, end) of the box of tensor `key`, flattened: reads these alone. Raises as `read` does."""
        parts = [self.view(key, part).flatten() for part in box.flat_range(start, end)]
        return torch.cat(parts) if parts else self.read(key, Box(box.start, (0,) * len(box.shape))).flatten()

    @property
    def copies_serve(self) -> bool:
        """Whether ranks read copies of what they wrote, where they have them."""
        return self._local is not None

    def is_read_by_others(self, name: str) -> bool:
        """Whether a file is of a rank that wrote in it what others had to write, and read."""
        return any(name.startswith(f"rank{taker:05d}-") for taker in self.manifest.metadata.get("takers", []))

    def local_copy(self, name: str) -> Path | None:
        """The copy of one of its files that is read instead."""
        file = self.manifest.files[name]
        return self._local.path(name, file.bytes, file.sha256) if self._local and file.sha256 else None

    def _file(self, name: str) -> MappedTensors:
        if name not in self._open:
            self._open[name] = self._checked(name)
        return self._open[name]

    def _checked(self, name: str) -> MappedTensors:
        """The safetensors file, whose header has each tensor as the manifest says."""
        path = self.local_copy(name) or self.folder / name
        is_other = self._local is not None and self._local.verified and not self._local.wrote(name)
        if is_other and not self.is_read_by_others(name):
            # Its writer has looked at a copy, and not at this file.
            problem = file_problem(self.folder, name, self.manifest.files[name])
            if problem:
                raise DamagedCheckpointError(f"{problem}; {MEND}")
        try:
            file = safe_open(path, framework="pt", device="cpu")
            for dtype, stored in self._boxes_of.get(name, ()):
                held = file.get_slice(stored.inside)
                there = held.get_dtype(), list(held.get_shape())
                if there != (dtype, stored.length):
                    raise DamagedCheckpointError(
                        f"{path} is damaged: {stored.inside!r} is {there[0]} of shape {there[1]}, {MANIFEST} says "
                        f"{dtype} of shape {stored.length}; {MEND}"
                    )
        except SafetensorError as error:
            raise DamagedCheckpointError(f"{path} is damaged: {one_line(str(error))}; {MEND}") from None
        return MappedTensors(path)


def check_same_model(store: StoreReader, architecture: Architecture) -> None:
    """Raise ValueError when the store's weights are not those of `architecture`, naming the first difference."""
    if any(ADAPTERS in key for key in store.tensors):
        raise ValueError(
            f"{store.folder} holds adapters and not the weights that they are on: add them first (editcaption convert "
            "megatron-to-hf --checkpoint .. --output ..) and name the folder that this writes"
        )
    for rule in rules_for(architecture).values():
        key = WEIGHTS + rule.name
        if key not in store.tensors:
            raise ValueError(f"{store.folder} is a checkpoint of another model: it lacks {rule.name}")
        if store.shape(key) != rule.shape:
            raise ValueError(
                f"{store.folder} is a checkpoint of another model: {rule.name} has shape {list(store.shape(key))}, "
                f"config.json asks for {list(rule.shape)}"
            )


def read_store(store: StoreReader, prefixes: tuple[str, ...]) -> Callable[[Rule, Box], Tensor]:
    """Boxes of a rule's tensor, under the first of these prefixes that the store has it under."""

    def read(rule: Rule, box: Box) -> Tensor:
        keys = [prefix + rule.name for prefix in prefixes]
        return store.view(next((key for key in keys if key in store.tensors), keys[-1]), box)

    return read
