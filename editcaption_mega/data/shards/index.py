"""`index.json`, the table of contents of one folder of shards: its form, its fingerprint, reading and writing it."""

import hashlib
import json
import os
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega.data.images.decode import LARGEST_FILE, LARGEST_MAX_PIXELS
from editcaption_mega.files import parse_json, plain_file, replacing
from editcaption_mega.records import LARGEST_RECORD, shown

INDEX_NAME = "index.json"
INDEX_SCHEMA = 1
MEMBERS = ("source", "target", "json")
# Bytes that a member may have: nothing larger is read, so a tar cannot claim the memory of the machine.
LARGEST_MEMBER = {"source": LARGEST_FILE, "target": LARGEST_FILE, "json": LARGEST_RECORD}

_LARGEST_INDEX = 512 << 20  # bytes: nearly a million samples
_ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
_MEMBER_NAME = re.compile(
    rf"(?:\./)?(?P<key>{_ID.pattern})\.(?P<part>src|tgt|json)(?P<extension>\.(?:jpe?g|png|webp))?"
)
_PARTS = {"src": "source", "tgt": "target", "json": "json"}
_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD_NAME = re.compile(r"[^/\\\x00-\x1f\x7f-\x9f]{1,200}\.tar")

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
    with replacing(directory / INDEX_NAME) as file:
        file.write(f'{{"schema": {INDEX_SCHEMA}, "fingerprint": "{index.fingerprint}",\n"shards": [\n')
        file.write(",\n".join(json.dumps(_fields(shard)) for shard in shards))
        file.write('\n],\n"samples": [\n')
        file.write(",\n".join(json.dumps(_sample_fields(sample)) for sample in samples))
        file.write("\n]}\n")
    return index


def load_index(directory: str | os.PathLike[str]) -> Index:
    """Read `index.json` of a folder. Raises ShardError where it is missing, damaged or of another schema version."""
    directory = Path(directory)
    path = directory / INDEX_NAME
    if not directory.is_dir():
        raise ShardError(f"{directory}: no such folder of shards")
    try:
        size = plain_file(path).stat().st_size
        if size > _LARGEST_INDEX:
            raise ShardError(
                f"{path}: {size} bytes, more than the {_LARGEST_INDEX} that an index may have: {_HOW_TO_MAKE}"
            )
        content = parse_json(path.read_bytes())
    except FileNotFoundError:
        raise ShardError(f"{directory}: no {INDEX_NAME}: {_HOW_TO_MAKE}") from None
    except ShardError:
        raise
    except ValueError as error:
        reason = str(error) if str(error).startswith("not valid JSON") else f"not valid JSON ({error})"
        raise ShardError(f"{path}: {reason}: {_HOW_TO_MAKE}") from None
    schema = content.get("schema") if isinstance(content, dict) else None
    if schema != INDEX_SCHEMA or isinstance(schema, bool):
        raise ShardError(
            f"{path}: index schema is {shown(schema)}, this version reads {INDEX_SCHEMA}: run "
            "tools/validate_shards.py --rebuild-index on the folder"
        )
    try:
        shards = [_shard(entry) for entry in _value(content, "shards", list)]
        samples = [_sample(entry, shards) for entry in _value(content, "samples", list)]
        fingerprint = _text(content, "fingerprint", _SHA256, "64 hexadecimal digits")
    except (KeyError, TypeError, ValueError) as error:
        raise ShardError(f"{path}: damaged ({type(error).__name__}: {error}): {_HOW_TO_MAKE}") from None
    if len({shard.name for shard in shards}) != len(shards):
        raise ShardError(f"{path}: damaged (one shard is listed twice): {_HOW_TO_MAKE}")
    if not samples:
        raise ShardError(f"{path}: the index lists no samples: {_HOW_TO_MAKE}")
    return Index(shards, samples, fingerprint)


def size_problem(directory: Path, shard: ShardFile) -> str | None:
    """One sentence where the tar file is missing or of another size than the index says; None where it agrees."""
    path = directory / shard.name
    try:
        size = plain_file(path).stat().st_size
    except FileNotFoundError:
        return f"{path}: missing, though {INDEX_NAME} lists it: copy it again or make the folder anew"
    except OSError as error:
        return f"{path}: {error.strerror}: copy it again or make the folder anew"
    if size != shard.bytes:
        return (
            f"{path}: {size} bytes, {INDEX_NAME} says {shard.bytes}: the tar is truncated or was changed; copy it "
            "again or make the folder anew"
        )
    return None


def member_part(name: str) -> tuple[str, str] | None:
    """(key, which of MEMBERS) of a name in a tar; None for one that is not part of the layout."""
    match = _MEMBER_NAME.fullmatch(name)
    if not match or (match["part"] == "json") != (match["extension"] is None):
        return None
    return match["key"], _PARTS[match["part"]]


def _shard(entry: Any) -> ShardFile:
    _fields_are(entry, ShardFile, ())
    return ShardFile(
        _text(entry, "name", _SHARD_NAME, "a bare file name, NAME.tar"),
        _integer(entry, "bytes"),
        _text(entry, "sha256", _SHA256, "64 hexadecimal digits"),
        _integer(entry, "samples"),
    )


def _sample(entry: Any, shards: list[ShardFile]) -> IndexedSample:
    _fields_are(entry, IndexedSample, ())
    identity, shard = _text(entry, "id", _ID, "an id of letters, digits, '-' and '_'"), _integer(entry, "shard")
    if shard >= len(shards):
        raise ValueError(f"sample {shown(identity)} lies in shard {shard} of {len(shards)}")
    members = {part: _member(entry[part], identity, part, shards[shard].bytes) for part in MEMBERS}
    return IndexedSample(identity, shard, **members)


def _member(entry: Any, identity: str, part: str, end: int) -> Member:
    if part != "json" and isinstance(entry, dict) and not {"width", "height"} <= set(entry):
        raise ValueError(f"{shown(entry.get('name'))} has no width and height")
    _fields_are(entry, Member, () if part != "json" else ("width", "height"))
    name = _value(entry, "name", str)
    if member_part(name) != (identity, part):
        raise ValueError(f"{shown(name)} is not the name of a {part} member of sample {shown(identity)}")
    offset, size = _integer(entry, "offset"), _integer(entry, "bytes")
    if offset + size > end:
        raise ValueError(f"{shown(name)} lies outside its shard")
    if size > LARGEST_MEMBER[part]:
        raise ValueError(f"{shown(name)} has {size} bytes, more than the {LARGEST_MEMBER[part]} that it may have")
    digest = _text(entry, "sha256", _SHA256, "64 hexadecimal digits")
    if part == "json":
        return Member(name, offset, size, digest, None, None)
    width, height = _integer(entry, "width", 1), _integer(entry, "height", 1)
    if width * height > LARGEST_MAX_PIXELS:
        raise ValueError(f"{shown(name)} has {width} x {height} pixels, more than {LARGEST_MAX_PIXELS}")
    return Member(name, offset, size, digest, width, height)


def _fields_are(entry: Any, kind: Any, absent: tuple[str, ...]) -> None:
    if not isinstance(entry, dict):
        raise TypeError(f"expected an object, found {type(entry).__name__}")
    expected = [name for name in kind.__slots__ if name not in absent]
    if unknown := sorted(set(entry) - set(expected)):
        raise ValueError(f"unknown field {shown(unknown[0])}")
    if missing := [name for name in expected if name not in entry]:
        raise KeyError(missing[0])


def _value[Kind](entry: dict[str, Any], name: str, kind: type[Kind]) -> Kind:
    value = entry[name]
    if type(value) is not kind:  # exactly: true is no number
        raise TypeError(f"{name} is {shown(value)}, expected {kind.__name__}")
    return value


def _integer(entry: dict[str, Any], name: str, least: int = 0) -> int:
    value = _value(entry, name, int)
    if not least <= value < 1 << 63:
        raise ValueError(f"{name} is {shown(value)}, expected a whole number from {least}")
    return value


def _text(entry: dict[str, Any], name: str, form: re.Pattern[str], expected: str) -> str:
    value = _value(entry, name, str)
    if not form.fullmatch(value):
        raise ValueError(f"{name} {shown(value)} is not {expected}")
    return value


def _fields(entry: Member | ShardFile) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in entry.__slots__}
    return {name: value for name, value in values.items() if value is not None}


def _sample_fields(sample: IndexedSample) -> dict[str, Any]:
    return {"id": sample.id, "shard": sample.shard} | {name: _fields(getattr(sample, name)) for name in MEMBERS}
