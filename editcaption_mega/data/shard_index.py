"""`index.json`, the table of contents of one folder of shards: its form, its fingerprint, reading and writing it."""

import hashlib
import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

INDEX_NAME = "index.json"
INDEX_SCHEMA = 1
MEMBERS = ("source", "target", "json")

_HOW_TO_MAKE = (
    "make the folder with tools/make_shards.py, or, if its tar files are whole, run tools/validate_shards.py "
    "--rebuild-index on it"
)


class ShardError(ValueError):
    """A folder of shards that can't be used; the message is one sentence with the file and the mend."""


@dataclass(frozen=True, slots=True)
class Member:
    """One file inside a tar. `offset` and `bytes` locate its content; images also have their size in pixels."""

    name: str
    offset: int
    bytes: int
    sha256: str
    width: int | None = None
    height: int | None = None


@dataclass(frozen=True, slots=True)
class IndexedSample:
    """One sample: its id, the number of its shard in `Index.shards`, and its three members."""

    id: str
    shard: int
    source: Member
    target: Member
    json: Member


@dataclass(frozen=True, slots=True)
class ShardFile:
    """One tar file: its bare name, its size in bytes, the sha256 of all of it, and how many samples it holds."""

    name: str
    bytes: int
    sha256: str
    samples: int


@dataclass(frozen=True)
class Index:
    """What `index.json` says: the shards, the samples in their order, and the fingerprint of the content."""

    shards: list[ShardFile]
    samples: list[IndexedSample]
    fingerprint: str


def content_fingerprint(samples: list[IndexedSample]) -> str:
    """sha256 (hex) over id and content of every sample, in order.

    Splitting the same samples into other shards leaves it unchanged; changing, adding or reordering samples doesn't:
    sample indices, and so a resumed run, depend on the order.
    """
    digest = hashlib.sha256()
    for sample in samples:
        parts = (sample.id, sample.source.sha256, sample.target.sha256, sample.json.sha256)
        digest.update(("\t".join(parts) + "\n").encode())
    return digest.hexdigest()


def write_index(directory: Path, shards: list[ShardFile], samples: list[IndexedSample]) -> Index:
    """Write `index.json` atomically (whole or not at all), one sample a line. Raises OSError."""
    index = Index(shards, samples, content_fingerprint(samples))
    temporary = directory / (INDEX_NAME + ".tmp")
    with open(temporary, "w", encoding="utf-8") as file:
        file.write(f'{{"schema": {INDEX_SCHEMA}, "fingerprint": "{index.fingerprint}",\n"shards": [\n')
        file.write(",\n".join(json.dumps(_fields(shard)) for shard in shards))
        file.write('\n],\n"samples": [\n')
        file.write(",\n".join(json.dumps(_sample_fields(sample)) for sample in samples))
        file.write("\n]}\n")
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, directory / INDEX_NAME)
    return index


def load_index(directory: str | os.PathLike) -> Index:
    """Read `index.json` of a folder. Raises ShardError where it is missing, damaged or of another schema version."""
    directory = Path(directory)
    path = directory / INDEX_NAME
    if not directory.is_dir():
        raise ShardError(f"{directory}: no such folder of shards")
    try:
        content = json.loads(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(f"{directory}: no {INDEX_NAME}: {_HOW_TO_MAKE}") from None
    except (ValueError, RecursionError) as error:
        raise ShardError(f"{path}: not valid JSON ({error}): {_HOW_TO_MAKE}") from None
    found = content.get("schema") if isinstance(content, dict) else None
    if found != INDEX_SCHEMA:
        raise ShardError(
            f"{path}: index schema is {found!r}, this version reads {INDEX_SCHEMA}: run "
            "tools/validate_shards.py --rebuild-index on the folder"
        )
    try:
        shards = [ShardFile(**row) for row in content["shards"]]
        samples = [_sample(row, shards) for row in content["samples"]]
        fingerprint = str(content["fingerprint"])
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: damaged ({type(error).__name__}: {error}): {_HOW_TO_MAKE}") from None
    for shard in shards:
        if os.path.basename(shard.name) != shard.name or shard.name in ("", ".", ".."):
            raise ShardError(f"{path}: shard name {shard.name!r} is not a bare file name: {_HOW_TO_MAKE}")
    if not samples:
        raise ShardError(f"{path}: the index lists no samples: {_HOW_TO_MAKE}")
    return Index(shards, samples, fingerprint)


def size_problem(directory: Path, shard: ShardFile) -> str | None:
    """One sentence where the tar file is missing or of another size than the index says; None where it agrees."""
    path = directory / shard.name
    try:
        found = path.stat().st_size
    except FileNotFoundError:
        return f"{path}: missing, though {INDEX_NAME} lists it: copy it again or make the folder anew"
    if found != shard.bytes:
        return (
            f"{path}: {found} bytes, {INDEX_NAME} says {shard.bytes}: the tar is truncated or was changed; copy it "
            "again or make the folder anew"
        )
    return None


def _sample(row: dict[str, Any], shards: list[ShardFile]) -> IndexedSample:
    if not 0 <= row["shard"] < len(shards):
        raise ValueError(f"sample {row['id']!r} lies in shard {row['shard']} of {len(shards)}")
    members = {name: Member(**row[name]) for name in MEMBERS}
    for member in members.values():
        if not 0 <= member.offset <= member.offset + member.bytes <= shards[row["shard"]].bytes:
            raise ValueError(f"{member.name!r} lies outside its shard")
    for image in (members["source"], members["target"]):
        if not (isinstance(image.width, int) and isinstance(image.height, int)):
            raise ValueError(f"{image.name!r} has no width and height")
    return IndexedSample(str(row["id"]), row["shard"], **members)


def _fields(row: Member | ShardFile) -> dict[str, Any]:
    values = {name: getattr(row, name) for name in row.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def _sample_fields(sample: IndexedSample) -> dict[str, Any]:
    return {"id": sample.id, "shard": sample.shard} | {name: _fields(getattr(sample, name)) for name in MEMBERS}
