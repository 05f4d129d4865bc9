"""The full check of a folder of shards, and the index made anew from the tar files alone."""

import hashlib
import json
import os
import re
import tarfile
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from itertools import groupby
from pathlib import Path
from typing import NamedTuple

from editcaption_mega.data.images import DEFAULT_MAX_PIXELS, ImageError, decode_image, image_size
from editcaption_mega.data.shard_index import (
    INDEX_NAME,
    MEMBERS,
    Index,
    IndexedSample,
    Member,
    ShardError,
    ShardFile,
    content_fingerprint,
    load_index,
    size_problem,
    write_index,
)
from editcaption_mega.records import EditPair, RecordError

_MEMBER_NAME = re.compile(r"^(?:\./)?(?P<key>[^./]+)\.(?P<part>src|tgt|json)(?P<extension>\.(?:jpg|jpeg|png|webp))?$")
_PARTS = {"src": "source", "tgt": "target", "json": "json"}
_CHUNK = 1 << 20


class CheckedFile(NamedTuple):
    """One step of `verify`: what was looked at (index, a tar, or a sample by id) and the problems found, in words."""

    name: str
    problems: list[str]


def verify(directory: str | os.PathLike, *, max_pixels: int = DEFAULT_MAX_PIXELS) -> Iterator[CheckedFile]:
    """Check everything that can be checked, one `CheckedFile` at a time: the index, each tar, each sample.

    Tars: size and sha256. Samples: sha256 of each member, json against the schema and its id against the key, both
    images decoded in full, sizes against the index. Damage is yielded, not raised; only an index that can't be read
    raises ShardError. There are `1 + len(index.shards) + len(index.samples)` steps.
    """
    directory = Path(directory)
    index = load_index(directory)
    yield CheckedFile(INDEX_NAME, list(_index_problems(directory, index)))
    for shard in index.shards:
        yield CheckedFile(shard.name, list(_shard_problems(directory, shard)))
    for number, samples in groupby(index.samples, key=lambda sample: sample.shard):
        path = directory / index.shards[number].name
        with open(path, "rb") if path.is_file() else nullcontext() as file:
            for sample in samples:
                yield CheckedFile(sample.id, list(_sample_problems(file, path, sample, max_pixels)))


def rebuild_index(directory: str | os.PathLike, *, progress: Callable[[str], None] | None = None) -> Index:
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
    shards, samples, ids = [], [], set()
    for number, path in enumerate(paths):
        if progress:
            progress(path.name)
        found = _read_tar(path, number)
        for sample in found:
            if sample.id in ids:
                raise ShardError(f"{path}: id {sample.id!r} is already in the set: ids must be unique")
            ids.add(sample.id)
        samples += found
        shards.append(ShardFile(path.name, path.stat().st_size, _file_sha256(path), len(found)))
    if not samples:
        raise ShardError(f"{directory}: the tar files hold no samples")
    return write_index(directory, shards, samples)


def _index_problems(directory: Path, index: Index) -> Iterator[str]:
    if index.fingerprint != content_fingerprint(index.samples):
        yield "the fingerprint doesn't match the samples listed: the index was edited; rebuild it"
    ids = [sample.id for sample in index.samples]
    if len(set(ids)) != len(ids):
        yield "an id occurs twice"
    counts = Counter(sample.shard for sample in index.samples)
    for number, shard in enumerate(index.shards):
        if counts[number] != shard.samples:
            yield f"{shard.name} holds {shard.samples} samples, but {counts[number]} are listed"
    listed = {shard.name for shard in index.shards}
    for path in sorted(directory.glob("*.tar")):
        if path.name not in listed:
            yield f"{path.name} is not in the index: webdataset would read it, open_shards wouldn't; rebuild the index"


def _shard_problems(directory: Path, shard: ShardFile) -> Iterator[str]:
    if problem := size_problem(directory, shard):
        yield problem
    elif _file_sha256(directory / shard.name) != shard.sha256:
        yield "sha256 differs from the index: the file was damaged or changed"


def _sample_problems(file, path: Path, sample: IndexedSample, max_pixels: int) -> Iterator[str]:
    if file is None:
        yield f"{path.name} is missing"
        return
    for part in MEMBERS:
        member = getattr(sample, part)
        content = os.pread(file.fileno(), member.bytes, member.offset)
        if len(content) != member.bytes:
            yield f"{member.name}: ends past the end of {path.name}, which was truncated"
            continue
        if hashlib.sha256(content).hexdigest() != member.sha256:
            yield f"{member.name}: sha256 differs from the index: damaged or changed"
        try:
            if part == "json":
                pair = _parse_pair(content, member.name)
                if pair.id != sample.id:
                    yield f"{member.name}: its id is {pair.id!r}, the index says {sample.id!r}"
                continue
            size = decode_image(content, max_pixels=max_pixels, where=member.name).size
            if size != (member.width, member.height):
                yield f"{member.name}: {size[0]} x {size[1]}, the index says {member.width} x {member.height}"
        except (ImageError, RecordError) as error:
            yield str(error)


def _read_tar(path: Path, number: int) -> list[IndexedSample]:
    """The samples of one tar, in the order of their first members. Raises ShardError."""
    parts: dict[str, dict[str, Member]] = {}
    try:
        with tarfile.open(path, mode="r:") as tar:
            for info in tar:
                if info.isdir():
                    continue  # holds nothing itself
                key, part, member = _read_member(path, tar, info)
                if part in parts.setdefault(key, {}):
                    raise ShardError(f"{path}: sample {key!r} has its {part} twice")
                parts[key][part] = member
            with open(path, "rb") as file:
                if os.pread(file.fileno(), tarfile.BLOCKSIZE, tar.offset) != bytes(tarfile.BLOCKSIZE):
                    raise ShardError(f"{path}: the tar has no end mark: it was truncated; copy it again")
    except (tarfile.TarError, EOFError) as error:
        raise ShardError(f"{path}: damaged or truncated tar ({error}): copy it again") from None
    samples = []
    for key, members in parts.items():
        missing = [part for part in MEMBERS if part not in members]
        if missing:
            raise ShardError(f"{path}: sample {key!r} has no {' and no '.join(missing)} member")
        samples.append(IndexedSample(key, number, *(members[part] for part in MEMBERS)))
    return samples


def _read_member(path: Path, tar: tarfile.TarFile, info: tarfile.TarInfo) -> tuple[str, str, Member]:
    match = _MEMBER_NAME.match(info.name)
    plain = info.isreg() and not info.issparse()
    if not plain or not match or (match["part"] == "json") != (match["extension"] is None):
        raise ShardError(
            f"{path}: member {info.name!r} is not part of the layout: expected KEY.src.jpg|png|webp, "
            "KEY.tgt.jpg|png|webp, KEY.json"
        )
    if info.offset_data + info.size > path.stat().st_size:
        raise ShardError(f"{path}: member {info.name!r} is cut off: the tar was truncated; copy it again")
    content = tar.extractfile(info).read()
    where = f"{path}: {info.name}"
    size = (None, None)
    if match["part"] != "json":
        size = image_size(content, where=where)
    elif (pair := _parse_pair(content, where)).id != match["key"]:
        raise ShardError(f"{where}: its id is {pair.id!r}, its key is {match['key']!r}: they must be the same")
    digest = hashlib.sha256(content).hexdigest()
    return match["key"], _PARTS[match["part"]], Member(info.name, info.offset_data, info.size, digest, *size)


def _parse_pair(content: bytes, where: str) -> EditPair:
    try:
        row = json.loads(content)
    except (ValueError, RecursionError) as error:
        raise RecordError(f"{where}: not valid JSON ({error})") from None
    return EditPair.from_json(row, where=where)


def _file_sha256(path: Path) -> str:
    digest = hashlib.sha256()
    with open(path, "rb") as file:
        while chunk := file.read(_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()
