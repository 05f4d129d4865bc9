"""One safetensors file, written by ourselves so that its checksum costs no second read.

`safetensors.torch.save_file` gives no digest, makes files that only their owner can read (mode 0600), leaves them to
the page cache, and reports a full disk as an error of its own. The form is small: 8 bytes of header length, a JSON
header, the tensors one after the other (https://github.com/huggingface/safetensors#format). It is read by safetensors.
"""

import hashlib
import json
import os
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editcaption_mega.files import naming

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
_ALIGNMENT = 8  # bytes: the largest item, so that every tensor can be used where it is mapped


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: dict[str, str] | None = None) -> str:
    """Write tensors (on the host) as a safetensors file that is on the disk when this returns -> sha256 of the file.

    The bytes are hashed in memory, by a second thread, while they are written. Raises OSError."""
    # Large items first: then each tensor begins at a multiple of its item size.
    ordered = sorted(tensors.items(), key=lambda item: (-item[1].element_size(), item[0]))
    header: dict[str, dict[str, Any]] = {"__metadata__": metadata} if metadata else {}
    end = 0
    for name, tensor in ordered:
        start, end = end, end + tensor.nbytes
        header[name] = {"dtype": DTYPES[tensor.dtype], "shape": list(tensor.shape), "data_offsets": [start, end]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % _ALIGNMENT)
    parts: list[bytes | memoryview] = [
        len(text).to_bytes(8, "little") + text,
        *(_bytes_of(tensor) for _, tensor in ordered),
    ]
    with ThreadPoolExecutor(1) as hasher:
        digest = hasher.submit(_sha256, parts)
        with naming(path), open(path, "wb") as file:
            for part in parts:
                file.write(part)
            file.flush()
            os.fsync(file.fileno())
        return digest.result()


def sha256_of(path: Path) -> str:
    """The digest of a file's bytes. Raises OSError."""
    with open(path, "rb", buffering=0) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _bytes_of(tensor: Tensor) -> memoryview:
    return memoryview(tensor.contiguous().reshape(-1).view(torch.uint8).numpy())


def _sha256(parts: Iterable[bytes | memoryview]) -> str:
    digest = hashlib.sha256()
    for part in parts:
        digest.update(part)
    return digest.hexdigest()
