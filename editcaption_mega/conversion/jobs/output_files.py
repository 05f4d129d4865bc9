"""The files that a conversion makes: which tensors are in which, and how each tensor is made in parts.

A tensor is written while it is made, a part at a time, so no process holds more than a few parts of one.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from editcaption_mega.kernels.transposes import copy_values

from ..rules import Box, Piece, Rule
from ..tensor_file import TensorForm, file_bytes

PART_BYTES = 8 << 20  # of a tensor that is made at once: it is still in the cache when it is hashed and written

Read = Callable[[Rule, Box], Tensor]  # a box of a rule's canonical tensor


@dataclass(frozen=True)
class OutputFile:
    """A file, with its tensors by name."""

    name: str
    forms: Mapping[str, TensorForm]
    metadata: dict[str, str] | None = None

    @property
    def nbytes(self) -> int:
        return file_bytes(self.forms, self.metadata)

    def values(self) -> Counter[torch.dtype]:
        """How many values of each dtype it holds."""
        counts: Counter[torch.dtype] = Counter()
        for form in self.forms.values():
            counts[form.dtype] += form.nbytes // form.dtype.itemsize
        return counts


def level_files(forms: Mapping[str, TensorForm], most_bytes: int) -> list[dict[str, TensorForm]]:
    """The tensors in their order, cut into as few files of at most `most_bytes` as there can be (a larger tensor has
    one of its own), about level: then processes that share them end together."""
    total = sum(form.nbytes for form in forms.values())
    count = max(1, -(-total // most_bytes))
    while True:
        files: list[dict[str, TensorForm]] = [{}]
        size = before = 0  # bytes of the last file, and of all
        for name, form in forms.items():
            # A tensor belongs to the share in which its middle lies.
            full = size + form.nbytes > most_bytes or (before + form.nbytes / 2) * count >= len(files) * total
            if size and full:
                files.append({})
                size = 0
            files[-1][name] = form
            size, before = size + form.nbytes, before + form.nbytes
        if len(files) <= count:
            return files
        count += 1


def canonical_parts(rule: Rule, item_size: int) -> Iterator[Box]:
    """A canonical tensor's boxes along its first axis, in order, of about PART_BYTES."""
    whole = Box.whole(rule.shape)
    for start, length in _steps(rule.shape[0], whole.size * item_size):
        yield _narrowed(whole, 0, start, length)


def folder_parts(rule: Rule, name: str, form: TensorForm, read: Read) -> Iterator[Tensor]:
    """The values of Hugging Face tensor `name` of a rule, in order, from boxes of the canonical tensor."""
    pieces = [piece for piece in rule.pieces if piece.name == name]
    # The tensor's first axis is the box's, or the second where the first is only the canonical tensor's.
    axis = 1 if pieces[0].dropped == 0 else 0
    rows = pieces[0].box.shape[axis]
    for start, length in _steps(rows, form.nbytes):
        out: Tensor | None = None
        for piece in pieces:
            part = _narrowed(piece.box, axis, start, length)
            region, values = piece.region(part), piece.to_hf(read(rule, part), part)
            if len(pieces) == 1:
                out = values.to(form.dtype)
                break
            if out is None:
                out = torch.empty((region[0].stop - region[0].start, *form.shape[1:]), dtype=form.dtype)
            copy_values(out[(slice(None), *region[1:])], values)
        assert out is not None, f"{name} has no rows"
        yield out


def piece_names(rule: Rule) -> dict[str, Piece]:
    """The Hugging Face tensors of a rule, with a piece of each."""
    return {piece.name: piece for piece in rule.pieces}


def _steps(length: int, nbytes: int) -> Iterator[tuple[int, int]]:
    """(start, length) of parts of an axis, such that each has about PART_BYTES of all bytes."""
    step = max(1, length * PART_BYTES // max(nbytes, 1))
    for start in range(0, length, step):
        yield start, min(step, length - start)


def _narrowed(box: Box, axis: int, start: int, length: int) -> Box:
    starts, lengths = list(box.start), list(box.shape)
    starts[axis] += start
    lengths[axis] = length
    return replace(box, start=tuple(starts), shape=tuple(lengths))
