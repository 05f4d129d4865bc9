"""The check of one sample of a folder, whatever the others are; a process for each core does some of them."""

import hashlib
import os
from collections.abc import Iterator
from typing import NamedTuple

from editcaption_mega.data.images.decode import ImageError, decode_image
from editcaption_mega.data.text.tokens import TextEncoder
from editcaption_mega.records import EditPair, RecordError

from .layout import MEMBERS, IndexedSample, Member
from .pair_checks import Look, PairLook, Remark, own_remarks
from .tar import parse_pair


class SampleCheck(NamedTuple):
    """problems: what differs from the index or cannot be read. remarks: what an import would say of the pair, but for
    the others. look: for those; None for a pair that cannot be read. tokens: of each text, with a tokenizer."""

    id: str
    problems: list[str]
    remarks: list[Remark]
    look: PairLook | None
    category: str | None
    tokens: dict[str, int]


class SampleReading(NamedTuple):
    """How a sample is read. tar: its name; descriptor: of that file, -1 where it is missing; encoder: counts tokens."""

    tar: str
    descriptor: int
    max_pixels: int
    encoder: TextEncoder | None


def check_sample(sample: IndexedSample, reading: SampleReading) -> SampleCheck:
    """sha256 of each member, json against the schema and its id against the key, both pictures decoded in full, sizes
    against the index, and what an import says of a pair by itself."""
    content = _Content(sample, reading)
    problems = list(content.problems())
    pair, looks = content.pair, content.looks
    if pair is None:
        return SampleCheck(sample.id, problems, [], None, None, {})
    tokens = {}
    if reading.encoder is not None:
        texts = {name: getattr(pair, name) for name in ("instruction", "chosen", "rejected")}
        tokens = {name: len(reading.encoder(text)) for name, text in texts.items() if text is not None}
    if len(looks) != 2:
        return SampleCheck(sample.id, problems, [], None, pair.category, tokens)
    look = PairLook.of(pair, *looks)
    return SampleCheck(sample.id, problems, own_remarks(pair, *looks), look, pair.category, tokens)


class _Content:
    """What a sample's members hold, as far as they can be read: `pair`, and `looks` of its pictures."""

    def __init__(self, sample: IndexedSample, reading: SampleReading):
        self.sample, self.reading, self.tar = sample, reading, reading.tar
        self.pair: EditPair | None = None
        self.looks: list[Look] = []

    def problems(self) -> Iterator[str]:
        """What differs from the index or cannot be read."""
        descriptor = self.reading.descriptor
        if descriptor < 0:
            yield f"{self.tar} is missing"
            return
        for part in MEMBERS:
            member = getattr(self.sample, part)
            content = os.pread(descriptor, member.bytes, member.offset)
            if len(content) != member.bytes:
                yield f"{member.name}: ends past the end of {self.tar}, which was truncated"
                continue
            if hashlib.sha256(content).hexdigest() != member.sha256:
                yield f"{member.name}: sha256 differs from the index: damaged or changed"
            try:
                yield from self._read_pair(content) if part == "json" else self._read_picture(content, member)
            except (ImageError, RecordError) as error:
                yield str(error)

    def _read_pair(self, content: bytes) -> Iterator[str]:
        self.pair = parse_pair(content, self.sample.json.name)
        if self.pair.id != self.sample.id:
            yield f"{self.sample.json.name}: its id is {self.pair.id!r}, the index says {self.sample.id!r}"

    def _read_picture(self, content: bytes, member: Member) -> Iterator[str]:
        picture = decode_image(content, max_pixels=self.reading.max_pixels, where=member.name)
        self.looks.append(Look.of(picture))
        if picture.size != (member.width, member.height):
            size = f"{picture.width} x {picture.height}"
            yield f"{member.name}: {size}, the index says {member.width} x {member.height}"
