"""The full check of a folder of shards, and the index made anew from the tar files alone."""

import hashlib
import os
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import BinaryIO, NamedTuple

from editcaption_mega.data.images.decode import LARGEST_MAX_PIXELS, ImageError, decode_image
from editcaption_mega.records import EditPair, RecordError, shown

from .index import INDEX_NAME, Index, load_index, size_problem, write_index
from .index_columns import ColumnsBuilder
from .layout import MEMBERS, IndexedSample, Member, ShardError, ShardFile
from .pair_checks import Look, PairChecks, Remark
from .tar import member_extents, parse_pair, read_tar
from .text_arrays import repeated

_CHUNK = 1 << 20


class CheckedFile(NamedTuple):
    """One step of `verify`: what was looked at (index, a tar, or a sample by id) and the problems found, in words."""

    name: str
    problems: list[str]


def verify(
    directory: str | os.PathLike[str],
    *,
    max_pixels: int = LARGEST_MAX_PIXELS,
    doubt: Callable[[str, Remark], None] = lambda identity, remark: None,
) -> Iterator[CheckedFile]:
    """Check everything that can be checked, one `CheckedFile` at a time: the index, each tar, each sample.

    Tars: size and sha256. Samples: sha256 of each member, json against the schema and its id against the key, both
    images decoded in full, sizes against the index, and the checks of an import (pair_checks): what an import would
    refuse is a problem, what it would warn of is given to `doubt` with the sample's id. Damage is yielded, not raised;
    only an index that can't be read raises ShardError. There are `1 + len(index.shards) + len(index.samples)` steps.
    """
    directory = Path(directory)
    index = load_index(directory)
    yield CheckedFile(INDEX_NAME, list(_index_problems(directory, index)))
    members: list[list[tuple[str, int, int]]] = [[] for _ in index.shards]
    for sample in index.samples:
        of_sample = (getattr(sample, part) for part in MEMBERS)
        members[sample.shard] += ((member.name, member.offset, member.bytes) for member in of_sample)
    for shard, listed in zip(index.shards, members, strict=True):
        yield CheckedFile(shard.name, list(_shard_problems(directory, shard, Counter(listed))))
    checks = PairChecks()
    for number, samples in groupby(index.samples, key=lambda sample: sample.shard):
        path = directory / index.shards[number].name
        with open(path, "rb") if path.is_file() else nullcontext() as file:
            for sample in samples:
                content = _Content(file, path, sample, max_pixels)
                problems = list(content.problems())
                for remark in content.remarks(checks):
                    if remark.refused:
                        problems.append(remark.text)
                    else:
                        doubt(sample.id, remark)
                yield CheckedFile(sample.id, problems)


def rebuild_index(directory: str | os.PathLike[str], *, progress: Callable[[str], None] | None = None) -> Index:
    """Write `index.json` (replacing one that is there) from the `*.tar` files of a folder, in the order of their names.

    For folders written by plain webdataset in the same layout, or moved about by hand. Every member is read;
    `progress` is called with each tar's name. Raises ShardError for the first tar that is damaged or truncated, member
    outside the layout, incomplete sample or repeated id; ImageError, RecordError for content; the old index then stays.
    """
    directory = Path(directory)
    if not directory.is_dir():
        raise ShardError(f"{directory}: no such folder of shards")
    paths = sorted(directory.glob("*.tar"))
    if not paths:
        raise ShardError(f"{directory}: no *.tar files to index: make the folder with tools/make_shards.py")
    shards, samples, ids = [], ColumnsBuilder(), set()
    for number, path in enumerate(paths):
        if progress:
            progress(path.name)
        in_tar = read_tar(path, number)
        for sample in in_tar:
            if sample.id in ids:
                raise ShardError(f"{path}: id {sample.id!r} is already in the set: ids must be unique")
            ids.add(sample.id)
            samples.add(sample)
        shards.append(ShardFile(path.name, path.stat().st_size, _file_sha256(path), len(in_tar)))
    if not len(samples):
        raise ShardError(f"{directory}: the tar files hold no samples")
    return write_index(directory, shards, samples.columns())


def _index_problems(directory: Path, index: Index) -> Iterator[str]:
    if index.fingerprint != index.samples.fingerprint():
        yield "the fingerprint doesn't match the samples listed: the index was edited; rebuild it"
    if rows := repeated(index.samples.ids):
        yield f"id {index.samples.ids[rows[0]]!r} occurs twice"
    counts = Counter(index.samples.shard.tolist())
    for number, shard in enumerate(index.shards):
        if counts[number] != shard.samples:
            yield f"{shard.name} holds {shard.samples} samples, but {counts[number]} are listed"
    listed = {shard.name for shard in index.shards}
    for path in sorted(directory.glob("*.tar")):
        if path.name not in listed:
            yield f"{path.name} is not in the index: webdataset would read it, open_shards wouldn't; rebuild the index"


def _shard_problems(directory: Path, shard: ShardFile, listed: Counter[tuple[str, int, int]]) -> Iterator[str]:
    if problem := size_problem(directory, shard):
        yield problem
    elif _file_sha256(directory / shard.name) != shard.sha256:
        yield "sha256 differs from the index: the file was damaged or changed"
    else:
        try:
            in_tar = member_extents(directory / shard.name)
        except ShardError as error:
            yield str(error)
            return
        differing = sorted({name for name, _, _ in (in_tar - listed) + (listed - in_tar)})
        if differing:
            more = f" and {len(differing) - 3} more" if len(differing) > 3 else ""
            names = ", ".join(map(shown, differing[:3])) + more
            yield f"the index does not list the members as the tar holds them ({names}): it was edited; rebuild it"


class _Content:
    """What a sample's members hold, as far as they can be read: `pair`, and `looks` of its pictures."""

    def __init__(self, file: BinaryIO | None, path: Path, sample: IndexedSample, max_pixels: int):
        self.file, self.path, self.sample, self.max_pixels = file, path, sample, max_pixels
        self.pair: EditPair | None = None
        self.looks: list[Look] = []

    def problems(self) -> Iterator[str]:
        """What differs from the index or cannot be read."""
        if self.file is None:
            yield f"{self.path.name} is missing"
            return
        for part in MEMBERS:
            member = getattr(self.sample, part)
            content = os.pread(self.file.fileno(), member.bytes, member.offset)
            if len(content) != member.bytes:
                yield f"{member.name}: ends past the end of {self.path.name}, which was truncated"
                continue
            if hashlib.sha256(content).hexdigest() != member.sha256:
                yield f"{member.name}: sha256 differs from the index: damaged or changed"
            try:
                yield from self._read_pair(content) if part == "json" else self._read_picture(content, member)
            except (ImageError, RecordError) as error:
                yield str(error)

    def remarks(self, checks: PairChecks) -> list[Remark]:
        """What an import would say of the pair; nothing of one that cannot be read."""
        if self.pair is None or len(self.looks) != 2:
            return []
        remarks = checks.check(self.pair, *self.looks)
        if not any(remark.refused for remark in remarks):
            checks.keep(self.pair, *self.looks)
        return remarks

    def _read_pair(self, content: bytes) -> Iterator[str]:
        self.pair = parse_pair(content, self.sample.json.name)
        if self.pair.id != self.sample.id:
            yield f"{self.sample.json.name}: its id is {self.pair.id!r}, the index says {self.sample.id!r}"

    def _read_picture(self, content: bytes, member: Member) -> Iterator[str]:
        picture = decode_image(content, max_pixels=self.max_pixels, where=member.name)
        self.looks.append(Look.of(picture))
        if picture.size != (member.width, member.height):
            size = f"{picture.width} x {picture.height}"
            yield f"{member.name}: {size}, the index says {member.width} x {member.height}"


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
