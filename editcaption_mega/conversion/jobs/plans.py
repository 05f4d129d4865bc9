"""What a conversion writes down of its plan, and what changes when its source does."""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import torch

from .output_files import OutputFile

_VERSION = 1  # of a plan: what was begun by a version that makes other files is begun anew


def values_of(files: Iterable[OutputFile]) -> Counter[torch.dtype]:
    """How many values of each dtype the files hold."""
    counts: Counter[torch.dtype] = Counter()
    for file in files:
        counts += file.values()
    return counts


def plan_of(
    conversion: str, files: list[OutputFile], source: dict[str, Any], dtype: torch.dtype | None
) -> dict[str, Any]:
    layout = [
        [file.name, [[name, str(form.dtype), list(form.shape)] for name, form in file.forms.items()]] for file in files
    ]
    return {
        "conversion": conversion, "version": _VERSION, "source": source, "dtype": str(dtype) if dtype else None,
        "files": hashlib.sha256(json.dumps(layout).encode()).hexdigest(),
    }  # fmt: skip


def file_identity(path: Path) -> list[Any]:
    """Changes when a weight file does: its size, its time, and its header."""
    stat = path.stat()
    with open(path, "rb") as file:
        length = int.from_bytes(file.read(8), "little")
        header = hashlib.sha256(file.read(length)).hexdigest()
    return [stat.st_size, stat.st_mtime_ns, header]


def digest_of(contents: Mapping[str, bytes]) -> str:
    digest = hashlib.sha256()
    for name, content in sorted(contents.items()):
        digest.update(f"{name}:{len(content)}\n".encode() + content)
    return digest.hexdigest()
