"""Whether what a conversion wrote holds the content of its source: read back from the disk by the readers of both."""

import os
from collections.abc import Generator, Iterable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from editcaption_mega.kernels.transposes import contiguous

from ..manifest import StoredFile, file_problem
from ..rules import Rule
from .output_files import Read, canonical_parts

Problem = tuple[Path, str]  # the file, and a sentence


@dataclass(frozen=True)
class ComparedRule:
    """The tensor of a rule in both forms. written, source: its values; files: where the written ones are."""

    rule: Rule
    dtype: torch.dtype
    written: Read
    source: Read
    files: list[Path]

    @property
    def nbytes(self) -> int:
        return self.rule.size * self.dtype.itemsize

    def compare(self) -> Generator[int, None, list[Problem]]:
        where = ", ".join(map(str, self.files))
        for box in canonical_parts(self.rule, self.dtype.itemsize):
            there, expected = self.written(self.rule, box), self.source(self.rule, box).to(self.dtype)
            if there.dtype != self.dtype:
                return [(path, f"{where}: {self.rule.name} is {there.dtype}, not {self.dtype}") for path in self.files]
            if not _same_bytes(there, expected):
                region = f"between {list(box.start)} and {list(box.end)}"
                sentence = f"{where}: {self.rule.name} differs from the source, {region}"
                return [(path, sentence) for path in self.files]
            yield box.size * self.dtype.itemsize
        return []


@dataclass(frozen=True)
class ComparedFile:
    """A file with the size and the checksum that were written down."""

    folder: Path
    name: str
    entry: StoredFile

    @property
    def nbytes(self) -> int:
        return self.entry.bytes

    def compare(self) -> Generator[int, None, list[Problem]]:
        problem = file_problem(self.folder, self.name, self.entry)
        yield self.entry.bytes
        return [(self.folder / self.name, problem)] if problem else []


@dataclass(frozen=True)
class ComparedBytes:
    """A small file whose every byte is known."""

    path: Path
    content: bytes

    @property
    def nbytes(self) -> int:
        return len(self.content)

    def compare(self) -> Generator[int, None, list[Problem]]:
        there = self.path.read_bytes() if self.path.is_file() else None
        yield len(self.content)
        return [] if there == self.content else [(self.path, f"{self.path} is not what the source makes it")]


Compared = ComparedRule | ComparedFile | ComparedBytes


def drop_cached(paths: Iterable[Path]) -> None:
    """Have the next reader of these files ask the disk, not the memory that they were written from."""
    for path in paths:
        with suppress(OSError, AttributeError):  # not every system has it; then the comparison is of the memory's copy
            descriptor = os.open(path, os.O_RDONLY)
            try:
                os.posix_fadvise(descriptor, 0, 0, os.POSIX_FADV_DONTNEED)
            finally:
                os.close(descriptor)


def _same_bytes(a: Tensor, b: Tensor) -> bool:
    """Not as numbers: NaN is no difference here, and -0 is one."""
    return torch.equal(contiguous(a).view(torch.uint8), contiguous(b).view(torch.uint8))
