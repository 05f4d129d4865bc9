"""A file of log-probs as a reference: checked once, a part by each rank, from then on read where a step needs it."""

import json
import zlib
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import batched
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.data.array_file import ArrayFile, is_made_from, map_arrays
from editcaption_mega.data.batching.dataset import PairDataset
from editcaption_mega.data.batching.loader import SequenceReader
from editcaption_mega.data.shards.unreadable import UNREADABLE
from editcaption_mega.records.pair import ANSWERS

_COUNTED_AT_ONCE = 16 << 20  # bytes
_WRITTEN_AT_ONCE = 4096  # lines


@dataclass(frozen=True)
class StoredLogProbs:
    """The token log-probs of N samples, mapped from a file.

    values [tokens] fp32: chosen, then rejected, sample after sample; bounds [N + 1] int64: sample i has bounds[i] ..
    bounds[i + 1]; checksums [N] uint32: CRC-32 of each sample's values"""

    path: Path
    values: np.ndarray
    bounds: np.ndarray
    checksums: np.ndarray

    def __len__(self) -> int:
        return len(self.checksums)

    def __getitem__(self, sample: int) -> Tensor:
        """[chosen tokens + rejected tokens] fp32. Raises ValueError for values that the disk has changed."""
        values = np.array(self.values[self.bounds[sample] : self.bounds[sample + 1]])
        if zlib.crc32(values) != self.checksums[sample]:
            raise ValueError(
                f"{self.path} is damaged: the log-probs of sample number {sample} are not those that were written; "
                "remove it, and the next start makes it again"
            )
        if np.isnan(values).any():
            raise ValueError(
                f"{self.path} has no log-probs of sample number {sample}, which could not be read when they were "
                "computed and can be now: remove it and the reference's file, and the next start makes them again"
            )
        return torch.from_numpy(values)


def read_reference(
    path: Path, reader: SequenceReader[PairDataset], expected: dict[str, str], tables: Path, *, sums: bool = False
) -> StoredLogProbs:
    """Token log-probs of every sample, from a file of `editcaption log-probs` or of the job's own. Collective: all
    ranks raise alike.

    The first start checks each line, a part of the file by each rank, and leaves the numbers in the folder `tables`,
    from which later ones map them. Raises ValueError, naming what differs, for a file of another job or a part. sums:
    hold each answer's sum, which the file has too, against its tokens, so that no digit changes unnoticed."""
    with platform.together(), open(path, "rb") as file:
        begin = len(first := file.readline())
        _check_fingerprint(path, _parsed(path, 0, first).get("fingerprint"), expected)
    status = platform.from_rank_zero(path.stat)
    bounds = np.concatenate([[0], np.cumsum(reader.lengths.answers.sum(1, dtype=np.int64))])
    key = {
        "format": 1, "file": [status.st_size, status.st_mtime_ns], "first": zlib.crc32(first), "sums": sums,
        "data": reader.dataset.fingerprint,
    }  # fmt: skip
    count = len(bounds) - 1
    arrays = {"values": (np.float32, (int(bounds[-1]),)), "checksums": (np.uint32, (count,))}
    table = ArrayFile(tables / "reference.safetensors", key, arrays)
    if not platform.from_rank_zero(lambda: is_made_from(table.path, key)):
        with platform.together():
            if platform.is_rank_zero():
                table.begin()
        _Lines(path, reader, sums).fill(table, bounds, begin, status.st_size)
        with platform.together():
            if platform.is_rank_zero():
                table.publish()
    with platform.together():
        return StoredLogProbs(table.path, bounds=bounds, **map_arrays(table.path, key))


@dataclass(frozen=True)
class _Lines:
    """The lines of a file, in the order of the samples, which its fingerprint of the shards holds fast."""

    path: Path
    reader: SequenceReader[PairDataset]
    sums: bool

    def fill(self, table: ArrayFile, bounds: np.ndarray, begin: int, end: int) -> None:
        """Check all lines and write their numbers, each rank those that begin in its part of bytes `begin` .. `end`.
        Collective."""
        rank, world = platform.rank(), platform.world_size()
        first, last = (begin + (end - begin) * k // world for k in (rank, rank + 1))
        with platform.together():
            counted = self._count(first, last)
        counts = platform.gather(counted)
        number, wanted = sum(counts[:rank]), len(bounds) - 1
        with platform.together():
            lines = enumerate(self._lines(first, last), number)
            for part in batched(lines, _WRITTEN_AT_ONCE):
                values = [self._checked(sample, line, sum(counts), wanted) for sample, line in part]
                start = part[0][0]
                table.fill("values", int(bounds[start]), np.concatenate(values))
                table.fill("checksums", start, np.array([zlib.crc32(of_sample) for of_sample in values], np.uint32))
        if sum(counts) < wanted:
            raise ValueError(self._incomplete(sum(counts), sum(counts), wanted))

    def _count(self, first: int, last: int) -> int:
        """How many lines begin in these bytes: the line feeds from one byte before them to two from their end."""
        count, at = 0, first - 1
        with open(self.path, "rb") as file:
            file.seek(at)
            while at < last - 1 and (chunk := file.read(min(_COUNTED_AT_ONCE, last - 1 - at))):
                count += chunk.count(b"\n")
                at += len(chunk)
        return count

    def _lines(self, first: int, last: int) -> Iterator[bytes]:
        with open(self.path, "rb") as file:
            file.seek(first - 1)
            at = first - 1 + len(file.readline())  # the end of what began before
            while at < last and (line := file.readline()):
                yield line
                at += len(line)

    def _checked(self, sample: int, line: bytes, lines: int, wanted: int) -> np.ndarray:
        """The numbers of a line [chosen tokens + rejected tokens] fp32. Raises ValueError when they are not what the
        data needs."""
        path, number = self.path, sample + 2
        values = _parsed(path, sample + 1, line)
        if sample >= wanted:
            raise ValueError(f"{path} has {lines:,} samples, and data.shards {wanted:,}: write it again")
        if UNREADABLE in values and values.get("id") == self.reader.dataset.id(sample):
            if self.reader.place is None:
                raise ValueError(
                    f"{path}, line {number}: sample {values['id']} could not be read when its log-probs were computed "
                    f"({values[UNREADABLE]}): mend the shards and write the file again, or set data.bad_samples=skip"
                )
            return np.full(int(self.reader.lengths.answers[sample].sum()), np.nan, np.float32)
        try:
            answers = [values[answer]["token_log_probs"] for answer in ANSWERS]
            log_probs = np.array([float(value) for answer in answers for value in answer], np.float32)
            lengths, name = tuple(map(len, answers)), values["id"]
            adds_up = not self.sums or [sum(answer) for answer in answers] == [values[a]["log_prob"] for a in ANSWERS]
        except (KeyError, TypeError, ValueError):
            raise ValueError(
                f"{path}, line {number}: expected id, chosen and rejected with their token_log_probs; write the "
                "file again with editcaption log-probs"
            ) from None
        if not adds_up:
            raise ValueError(
                f"{path}, line {number} is damaged: the log-probs of {name} do not add up to their sum; "
                "remove the file, and the job computes it again"
            )
        expected = tuple(self.reader.lengths.answers[sample].tolist())
        if name != self.reader.dataset.id(sample):
            if lines < wanted:
                raise ValueError(self._incomplete(sample, lines, wanted))
            raise ValueError(
                f"{path}, line {number} is of sample {name}, expected {self.reader.dataset.id(sample)}: the lines are "
                "not in the order of data.shards; write it again with editcaption log-probs"
            )
        if lengths != expected:
            raise ValueError(
                f"{path}: sample {name} has answers of {lengths} tokens there, and of {expected} in data.shards; "
                "write it again"
            )
        if not np.isfinite(log_probs).all():
            raise ValueError(
                f"{path}: the reference log-probs of sample {name} are not finite: the reference model gives one "
                "of its tokens no probability; remove the pair or use another reference"
            )
        return log_probs

    def _incomplete(self, sample: int, lines: int, wanted: int) -> str:
        return (
            f"{self.path} is incomplete: it has no log-probs of sample {self.reader.dataset.id(sample)} ({lines:,} "
            f"samples there, {wanted:,} in data.shards); write it again with editcaption log-probs"
        )


def _check_fingerprint(path: Path, recorded: object, expected: dict[str, str]) -> None:
    if not isinstance(recorded, dict):
        raise ValueError(f"{path} is no file of editcaption log-probs: its first line holds no fingerprint")
    different = [name for name, value in expected.items() if recorded.get(name) != value]
    if different:
        listed = ", ".join(f"{name} ({recorded.get(name)} there, {expected[name]} here)" for name in different)
        raise ValueError(
            f"{path} holds reference log-probs of something else: {listed} differ. Write them again with "
            "editcaption log-probs, or leave reference.file empty and use a new training.output"
        )


def _parsed(path: Path, number: int, line: bytes) -> dict[str, Any]:
    """number: of the line, from 0."""
    try:
        values = json.loads(line)
    except ValueError:
        values = None
    if not isinstance(values, dict):
        raise ValueError(f"{path}, line {number + 1} is not a JSON object: the file is damaged, write it again")
    return values
