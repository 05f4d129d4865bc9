"""Sharded tensors on disk: safetensors files and one JSON manifest, readable at any layout, never un-pickled.

A store is a folder of `*.safetensors`, each written by one rank, and `tensors.json`: for every canonical tensor its
shape, dtype and the boxes that make it up. The manifest is written last; a folder without it is not a checkpoint.
"""

import json
import os
from pathlib import Path

import torch
import torch.distributed as dist
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from .rules import Box, Shape

MANIFEST = "tensors.json"
FORMAT = 1


class StoreWriter:
    """Collects this rank's boxes, then writes them; `finish` is collective."""

    def __init__(self, folder: str | Path, *, metadata: dict | None = None, max_file_bytes: int = 4 << 30):
        self.folder, self.max_file_bytes = Path(folder), max_file_bytes
        self.metadata = metadata or {}
        self.folder.mkdir(parents=True, exist_ok=True)
        self._pending: dict[str, Tensor] = {}
        self._pending_bytes = 0
        self._entries: list[dict] = []
        self._files = 0

    def add(self, key: str, shape: Shape, box: Box, values: Tensor) -> None:
        """`values` is the box of tensor `key`, whose whole shape is `shape`. It is copied to the host at once."""
        values = values.detach().reshape(box.shape).to("cpu", copy=True).contiguous()
        if self._pending_bytes and self._pending_bytes + values.nbytes > self.max_file_bytes:
            self._flush()
        inside = f"{key}@{','.join(map(str, box.start))}"
        self._pending[inside] = values
        self._pending_bytes += values.nbytes
        self._entries.append(
            {
                "key": key,
                "shape": list(shape),
                "dtype": str(values.dtype).removeprefix("torch."),
                "start": list(box.start),
                "length": list(box.shape),
                "inside": inside,
                "file": self._file_name(),
            }
        )

    def finish(self) -> None:
        """Write what is left, then the manifest on rank 0. Raises on every rank when any rank failed."""
        error = None
        try:
            self._flush()
        except OSError as caught:
            error = f"rank {_rank()}: {self.folder}: {caught}"
        sizes = {path.name: path.stat().st_size for path in self.folder.glob(f"rank{_rank():05d}-*.safetensors")}
        gathered = [(self._entries, sizes, error)]
        if dist.is_initialized():
            gathered = [None] * dist.get_world_size()
            dist.all_gather_object(gathered, (self._entries, sizes, error))
        errors = [part[2] for part in gathered if part[2]]
        if errors:
            raise OSError(f"the checkpoint could not be written: {errors[0]}")
        if _rank() == 0:
            tensors: dict[str, dict] = {}
            for entries, _, _ in gathered:
                for entry in entries:
                    tensor = tensors.setdefault(
                        entry["key"], {"shape": entry["shape"], "dtype": entry["dtype"], "boxes": []}
                    )
                    tensor["boxes"].append({name: entry[name] for name in ("start", "length", "inside", "file")})
            files = {name: size for _, sizes, _ in gathered for name, size in sizes.items()}
            manifest = {"format": FORMAT, "metadata": self.metadata, "files": files, "tensors": tensors}
            write_atomically(self.folder / MANIFEST, json.dumps(manifest))
        if dist.is_initialized():
            dist.barrier()

    def _file_name(self) -> str:
        return f"rank{_rank():05d}-{self._files:04d}.safetensors"

    def _flush(self) -> None:
        if not self._pending:
            return
        path = self.folder / self._file_name()
        save_file(self._pending, path)
        with open(path, "rb") as written:
            os.fsync(written.fileno())
        self._pending, self._pending_bytes = {}, 0
        self._files += 1


class StoreReader:
    """Reads any box of any tensor of a store, touching only the bytes that it needs."""

    def __init__(self, folder: str | Path):
        self.folder = Path(folder)
        path = self.folder / MANIFEST
        if not path.is_file():
            raise ValueError(f"{folder} is not a complete checkpoint: it has no {MANIFEST}")
        try:
            manifest = json.loads(path.read_text(encoding="utf-8"))
        except json.JSONDecodeError:
            raise ValueError(f"{path} is damaged: it is not valid JSON") from None
        if manifest.get("format") != FORMAT:
            raise ValueError(f"{path} has format {manifest.get('format')!r}, this version reads {FORMAT}")
        for name, size in manifest["files"].items():
            found = (self.folder / name).stat().st_size if (self.folder / name).is_file() else None
            if found != size:
                what = "is missing" if found is None else f"has {found} bytes"
                raise ValueError(f"{self.folder / name} {what}, the manifest says {size} bytes: the copy is incomplete")
        self.tensors: dict[str, dict] = manifest["tensors"]
        self.metadata: dict = manifest["metadata"]
        self._open: dict[str, object] = {}

    def shape(self, key: str) -> Shape:
        return tuple(self.tensors[key]["shape"])

    def dtype(self, key: str) -> torch.dtype:
        return getattr(torch, self.tensors[key]["dtype"])

    def read(self, key: str, box: Box | None = None) -> Tensor:
        """The box (None: all) of tensor `key`. Raises ValueError when the store does not hold all of it."""
        if key not in self.tensors:
            raise ValueError(f"{self.folder} holds no tensor {key!r}: it is a checkpoint of another model")
        entry = self.tensors[key]
        box = box or Box.whole(tuple(entry["shape"]))
        out = torch.empty(box.shape, dtype=self.dtype(key))
        covered = 0
        for stored in entry["boxes"]:
            held = Box(tuple(stored["start"]), tuple(stored["length"]))
            common = held.intersect(box)
            if common is None:
                continue
            out[common.within(box)] = self._file(stored["file"]).get_slice(stored["inside"])[common.within(held)]
            covered += common.size
        if covered != box.size:
            raise ValueError(
                f"{self.folder} holds {covered} of {box.size} values of {key!r}: the checkpoint is damaged"
            )
        return out

    def _file(self, name: str):
        if name not in self._open:
            try:
                self._open[name] = safe_open(self.folder / name, framework="pt", device="cpu")
            except SafetensorError as error:
                raise ValueError(f"{self.folder / name} is damaged: {error}") from None
        return self._open[name]


def write_atomically(path: Path, text: str) -> None:
    """Write a file so that it is either whole or absent, also when the machine stops in between."""
    temporary = path.with_name(path.name + ".tmp")
    with open(temporary, "w", encoding="utf-8") as out:
        out.write(text)
        out.flush()
        os.fsync(out.fileno())
    os.replace(temporary, path)


def _rank() -> int:
    return dist.get_rank() if dist.is_initialized() else 0
