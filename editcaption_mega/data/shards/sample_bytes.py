"""One sample as it stands in a tar, made apart from the tar that it comes into: processes can share the work."""

import hashlib
import json
import tarfile
from typing import NamedTuple

from editcaption_mega.data.images.decode import image_size
from editcaption_mega.records import EditPair, RecordError

from .layout import LARGEST_MEMBER, IndexedSample, Member

EXTENSIONS = ("jpg", "png", "webp")
_BLOCK = tarfile.BLOCKSIZE


class TarSample(NamedTuple):
    """A sample's members in the form of a tar, one after another; offsets of `members` (source, target, json) begin
    with `blocks`. content_bytes: of the three, without what the tar adds."""

    id: str
    blocks: bytes
    members: tuple[Member, Member, Member]
    content_bytes: int

    def at(self, shard: int, offset: int) -> IndexedSample:
        """What the index has of it, in that shard with `blocks` at that offset."""
        moved = (Member(m.name, m.offset + offset, m.bytes, m.sha256, m.width, m.height) for m in self.members)
        return IndexedSample(self.id, shard, *moved)


def encoded_sample(
    pair: EditPair, source: bytes, source_extension: str, target: bytes, target_extension: str
) -> TarSample:
    """Equal samples give equal bytes. Images as encoded bytes, extensions without a dot.

    Raises ImageError (unreadable header), RecordError (a pair that is no JSON, or a megabyte of it), ValueError
    (extension not jpg, png or webp)."""
    for extension in (source_extension, target_extension):
        if extension not in EXTENSIONS:
            raise ValueError(f"{pair.id}: image extension {extension!r}: expected one of {', '.join(EXTENSIONS)}")
    source_size = image_size(source, where=f"{pair.id} source")
    target_size = image_size(target, where=f"{pair.id} target")
    record = _record(pair)
    parts: list[bytes] = []
    members, offset = [], 0
    for name, content, size in (
        (f"{pair.id}.src.{source_extension}", source, source_size),
        (f"{pair.id}.tgt.{target_extension}", target, target_size),
        (f"{pair.id}.json", record, (None, None)),
    ):
        info = tarfile.TarInfo(name)  # mtime, uid and gid are 0, user and group names empty
        info.size, info.mode = len(content), 0o644
        # GNU format: ids longer than a tar header's 100 characters get a header of their own.
        header = info.tobuf(tarfile.GNU_FORMAT)
        members.append(Member(name, offset + len(header), len(content), hashlib.sha256(content).hexdigest(), *size))
        parts += [header, content, bytes(-len(content) % _BLOCK)]
        offset += sum(map(len, parts[-3:]))
    total = len(source) + len(target) + len(record)
    return TarSample(pair.id, b"".join(parts), (members[0], members[1], members[2]), total)


def tar_end(size: int) -> bytes:
    """What ends a tar of `size` bytes: two empty blocks, up to a whole record."""
    end = 2 * _BLOCK
    return bytes(end + -(size + end) % tarfile.RECORDSIZE)


def _record(pair: EditPair) -> bytes:
    row = pair.to_json()
    EditPair.from_json(row, where=pair.id)  # a copy that was changed is not checked where it is made
    try:
        record = json.dumps(row, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    except (TypeError, ValueError, RecursionError) as error:
        raise RecordError(f"{pair.id}: has no JSON form ({error})") from None
    if len(record) > LARGEST_MEMBER["json"]:
        raise RecordError(f"{len(record)} bytes of JSON, more than the {LARGEST_MEMBER['json']} that a pair may have")
    return record
