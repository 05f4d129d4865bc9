"""The layout of a folder of shards: what its tars hold, under which names, and the nouns of its index."""

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from editcaption_mega.data.images.decode import LARGEST_FILE
from editcaption_mega.records import LARGEST_RECORD

MEMBERS = ("source", "target", "json")
# Bytes that a member may have: nothing larger is read, so a tar cannot claim the memory of the machine.
LARGEST_MEMBER = {"source": LARGEST_FILE, "target": LARGEST_FILE, "json": LARGEST_RECORD}
ID = re.compile(r"[A-Za-z0-9_-]{1,200}")
ID_BYTES = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789_-"
ADDRESS_NAME = "address.json"  # in the folder of this machine for shards at an address (see `mirrors`)
HOW_TO_MAKE = (
    "make the folder with editcaption shards, or, if its tar files are whole, run editcaption validate-shards "
    "--rebuild-index on it"
)

_EXTENSIONS = ("jpg", "jpeg", "png", "webp")
_MEMBER_NAME = re.compile(
    rf"(?P<here>\./)?(?P<key>{ID.pattern})\.(?P<part>src|tgt|json)(?:\.(?P<extension>{'|'.join(_EXTENSIONS)}))?"
)
_PARTS = {"src": "source", "tgt": "target", "json": "json"}
_IN_NAMES = {part: name for name, part in _PARTS.items()}
LARGEST_FORM = 2 * len(_EXTENSIONS) - 1


class ShardError(ValueError):
    """A folder of shards that can't be used; the message is one sentence with the file and the mend."""


class UnreachableError(ShardError):
    """Shards that nobody gives: their storage is gone, which says nothing of what it holds."""


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


def member_part(name: str) -> tuple[str, str] | None:
    """(key, which of MEMBERS) of a name in a tar; None for one that is not part of the layout."""
    match = _MEMBER_NAME.fullmatch(name)
    if not match or (match["part"] == "json") != (match["extension"] is None):
        return None
    return match["key"], _PARTS[match["part"]]


def member_forms(names: Iterable[str]) -> Iterator[int]:
    """What of each name its key and part do not say, as a number of 0 to LARGEST_FORM."""
    for name in names:
        match = _MEMBER_NAME.fullmatch(name)
        assert match is not None, "a name of the layout"
        kind = _EXTENSIONS.index(match["extension"]) if match["extension"] else 0
        yield kind + len(_EXTENSIONS) * (match["here"] is not None)


def name_of(key: str, part: str, form: int) -> str:
    """The name that has this form."""
    here, extension = divmod(form, len(_EXTENSIONS))
    return "./" * here + f"{key}.{_IN_NAMES[part]}" + ("" if part == "json" else f".{_EXTENSIONS[extension]}")
