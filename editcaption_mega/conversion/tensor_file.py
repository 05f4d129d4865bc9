"""One safetensors file, written by ourselves so that its checksum costs no second read.

`safetensors.torch.save_file` gives no digest, makes files that only their owner can read (mode 0600), leaves them to
the page cache, and reports a full disk as an error of its own. The form is small: 8 bytes of header length, a JSON
header, the tensors one after the other (https://github.com/huggingface/safetensors#format). It is read by safetensors.
"""

import hashlib
import json
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editcaption_mega.disk_file import PAGE, DiskFile
from editcaption_mega.files import naming
from editcaption_mega.kernels.transposes import contiguous, copy_values

# The dtypes that weights, optimizer state and generators have, in safetensors' names.
DTYPES = {
    torch.float64: "F64",
    torch.float32: "F32",
    torch.float16: "F16",
    torch.bfloat16: "BF16",
    torch.float8_e4m3fn: "F8_E4M3",
    torch.float8_e5m2: "F8_E5M2",
    torch.int64: "I64",
    torch.int32: "I32",
    torch.int16: "I16",
    torch.int8: "I8",
    torch.uint8: "U8",
    torch.bool: "BOOL",
}
_OF_NAME = {name: dtype for dtype, name in DTYPES.items()}
_ALIGNMENT = 8  # bytes: the largest item, so that every tensor can be used where it is mapped
_BLOCK = 8 << 20  # bytes that are written at once past the page cache
_AHEAD = 3  # blocks that may wait for their digest and for the disk while the next is made


@dataclass(frozen=True)
class TensorForm:
    """What a file's header says of a tensor."""

    dtype: torch.dtype
    shape: tuple[int, ...]

    @property
    def nbytes(self) -> int:
        return prod(self.shape) * self.dtype.itemsize


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors (on the host) as a safetensors file that is on the disk when this returns -> sha256 of the file.

    The bytes are hashed in memory, by a second thread, while they are written. Raises OSError."""
    forms = {name: TensorForm(tensor.dtype, tuple(tensor.shape)) for name, tensor in tensors.items()}
    writing = write_parts(path, forms, lambda name: iter((tensors[name],)), metadata=metadata)
    while True:
        try:
            next(writing)
        except StopIteration as end:
            digest: str = end.value
            return digest


def write_parts(
    path: Path,
    forms: Mapping[str, TensorForm],
    parts: Callable[[str], Iterator[Tensor]],
    *,
    metadata: dict[str, str] | None = None,
    digest: bool = True,
    direct: bool = False,
) -> Generator[int, None, str | None]:
    """As `write_tensors`, of tensors that are made while they are written: parts(name) gives a tensor's values in their
    order, in as many parts as it likes. Yields how many bytes more are written; returns the sha256, or None.

    direct: past the page cache, where that is possible (`DiskFile`). Parts are copied then, and may be views."""
    contents = _contents(forms, parts, metadata)
    blocks = page_blocks(contents, waiting=_AHEAD) if direct else map(_flat_bytes, contents)
    file_digest, waiting = hashlib.sha256(), deque[tuple[int, list[Future[None]]]]()
    with (
        naming(path),
        DiskFile(path, direct=direct) as file,  # is closed when the threads have ended
        ThreadPoolExecutor(1) as hasher,
        ThreadPoolExecutor(1) as writer,
    ):
        for block in blocks:
            content = memoryview(block.numpy())
            work = [writer.submit(file.write, content)]
            if digest:
                work.append(hasher.submit(file_digest.update, content))
            waiting.append((len(content), work))
            if len(waiting) > _AHEAD:
                yield _done(*waiting.popleft())
        while waiting:
            yield _done(*waiting.popleft())
        file.sync()
    return file_digest.hexdigest() if digest else None


def _done(nbytes: int, work: list[Future[None]]) -> int:
    for part in work:
        part.result()
    return nbytes


def file_bytes(forms: Mapping[str, TensorForm], metadata: dict[str, str] | None = None) -> int:
    """The size of the file that these tensors become."""
    return len(_header(_ordered(forms), forms, metadata)) + sum(form.nbytes for form in forms.values())


def _ordered(forms: Mapping[str, TensorForm]) -> list[str]:
    """Large items first: then each tensor begins at a multiple of its item size."""
    return sorted(forms, key=lambda name: (-forms[name].dtype.itemsize, name))


def _header(ordered: list[str], forms: Mapping[str, TensorForm], metadata: dict[str, str] | None) -> bytes:
    header: dict[str, dict[str, Any]] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name in ordered:
        start, end = end, end + forms[name].nbytes
        dtype, shape = DTYPES[forms[name].dtype], list(forms[name].shape)
        header[name] = {"dtype": dtype, "shape": shape, "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    return len(text).to_bytes(8, "little") + text


def _contents(
    forms: Mapping[str, TensorForm], parts: Callable[[str], Iterator[Tensor]], metadata: dict[str, str] | None
) -> Iterator[Tensor]:
    """What a file consists of: its header, then its tensors."""
    ordered = _ordered(forms)
    yield torch.frombuffer(bytearray(_header(ordered, forms, metadata)), dtype=torch.uint8)
    for name in ordered:
        written = 0
        for part in parts(name):
            written += part.nbytes
            yield part
        assert written == forms[name].nbytes, f"{name}: {written} bytes were made of {forms[name]}"


def page_blocks(contents: Iterable[Tensor], *, waiting: int) -> Iterator[Tensor]:
    """The bytes of tensors one after the other, in blocks that `DiskFile` takes directly. Tensors, views of any
    strides among them, are copied into them; each begins at a multiple of its item size.

    waiting: how many blocks may still be in use when the next is asked for; older ones lend their memory to it."""
    blocks = [_on_pages(_BLOCK + PAGE) for _ in range(waiting + 1)]
    number = filled = 0
    for values in contents:
        if filled + values.nbytes > blocks[number].numel():
            whole = filled - filled % PAGE
            rest = blocks[number][whole:filled]
            if whole:
                yield blocks[number][:whole]
                number = (number + 1) % len(blocks)
            filled = rest.numel()
            if blocks[number].numel() < filled + values.nbytes:
                blocks[number] = _on_pages(filled + values.nbytes)
            blocks[number][:filled] = rest
        there = blocks[number][filled : filled + values.nbytes]
        copy_values(there.view(values.dtype).view(values.shape), values)
        filled += values.nbytes
    whole = filled - filled % PAGE
    if whole:
        yield blocks[number][:whole]
    if filled > whole:
        yield blocks[number][whole:filled]


def bytes_of_blocks(largest: int) -> int:
    """What `write_parts` holds past the page cache, where the largest part has so many bytes."""
    return (_AHEAD + 1) * max(_BLOCK, largest)


def _on_pages(count: int) -> Tensor:
    """Room for so many bytes, from the beginning of a page on."""
    room = torch.empty(count + PAGE, dtype=torch.uint8)
    start = -room.data_ptr() % PAGE
    return room[start : start + count]


class MappedTensors:
    """The tensors of a safetensors file as views of the file: what is not used is not read, what is used costs no
    memory of the process. For a file that safetensors has opened, which checks its header and its length."""

    def __init__(self, path: Path):
        with open(path, "rb") as file:
            length = int.from_bytes(file.read(8), "little")
            self._header = json.loads(file.read(length))
        size = path.stat().st_size
        storage: Any = torch.UntypedStorage.from_file(str(path), False, size)
        self._bytes = torch.empty(0, dtype=torch.uint8).set_(storage, 0, (size,), (1,))[8 + length :]

    def __getitem__(self, name: str) -> Tensor:
        entry = self._header[name]
        start, end = entry["data_offsets"]
        content, dtype = self._bytes[start:end], _OF_NAME[entry["dtype"]]
        if content.storage_offset() % dtype.itemsize:  # no writer does that, but the form allows it
            content = content.clone()
        return content.view(dtype).view(entry["shape"])


def in_own_memory(values: Tensor) -> Tensor:
    """The same values, contiguous, copied where they are a part of something larger: a mapped file, which has a header
    at the least. PyTorch's own word for a view would not do: in inference mode it says that nothing is one."""
    if values.untyped_storage().nbytes() != values.nbytes:
        return values.clone() if values.is_contiguous() else contiguous(values)
    return values.contiguous()


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _flat_bytes(tensor: Tensor) -> Tensor:
    return contiguous(tensor).reshape(-1).view(torch.uint8)
