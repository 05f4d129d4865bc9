"""What index.json says, with each field checked; of folders of schema 1, the samples too, which were once in there."""

import re
from typing import Any

from editcaption_mega.data.images.decode import LARGEST_MAX_PIXELS
from editcaption_mega.records import shown

from .layout import ID, LARGEST_MEMBER, MEMBERS, IndexedSample, Member, ShardFile, member_part

COLUMNS_NAME = re.compile(r"index-[0-9a-f]{12}\.safetensors")

_SHA256 = re.compile(r"[0-9a-f]{64}")
_SHARD_NAME = re.compile(r"[^/\\\x00-\x1f\x7f-\x9f]{1,200}\.tar")


def shards_of(content: dict[str, Any]) -> list[ShardFile]:
    """Raises KeyError, TypeError, ValueError, as all of these do, for what is not as it should be."""
    shards = [_shard(entry) for entry in _value(content, "shards", list)]
    if len({shard.name for shard in shards}) != len(shards):
        raise ValueError("one shard is listed twice")
    return shards


def samples_of(content: dict[str, Any], shards: list[ShardFile]) -> list[IndexedSample]:
    """Of schema 1."""
    return [_sample(entry, shards) for entry in _value(content, "samples", list)]


def content_fingerprint(content: dict[str, Any]) -> str:
    return _text(content, "fingerprint", _SHA256, "64 hexadecimal digits")


def columns_of(content: dict[str, Any]) -> tuple[str, int]:
    """Of schema 2: the name of the file with the samples, and how many there are."""
    return _text(content, "columns", COLUMNS_NAME, "index-NUMBER.safetensors"), _integer(content, "samples")


def fields(entry: Member | ShardFile) -> dict[str, Any]:
    values = {name: getattr(entry, name) for name in entry.__slots__}
    return {name: value for name, value in values.items() if value is not None}


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
    identity, shard = _text(entry, "id", ID, "an id of letters, digits, '-' and '_'"), _integer(entry, "shard")
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
