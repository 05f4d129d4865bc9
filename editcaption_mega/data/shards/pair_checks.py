"""Is a pair worth training on? The checks that an import and `validate_shards` share.

A pair is refused where nothing can be learnt from it, and doubted where somebody should look. Of the pairs before only
hashes and thumbnails are kept, on the disk.
"""

from hashlib import blake2b
from typing import Any, NamedTuple

from PIL import Image, ImageChops

from editcaption_mega.data.images.look_alikes import LookAlikes, Sizes, thumbnail
from editcaption_mega.data.images.pixel_digest import pixel_digest
from editcaption_mega.data.scratch import open_scratch
from editcaption_mega.data.text.checks import doubts
from editcaption_mega.data.text.refusals import is_refusal
from editcaption_mega.records import EditPair

LARGEST_ASPECT = 200  # the model's picture processor refuses what is longer
_SMALLEST_SIDE = 16
_MOST_STRETCH, _MOST_SCALE = 1.25, 4  # between the pictures of a pair: aspect ratios, numbers of pixels
_BLOCK = 8
# A JPEG or WebP of quality 60 keeps the means of its blocks to within so many steps of 255: Y, Cb, Cr.
_SAME_BLOCK = (5, 8, 8)


class Remark(NamedTuple):
    """What a check says of a pair: its kind in words that are the same for every pair, the whole sentence, and whether
    the pair is refused for it."""

    kind: str
    text: str
    refused: bool = False


class Look(NamedTuple):
    """What checks need of a picture, so that the picture itself need not be kept: its size (width, height), a hash of
    its pixels, the means of its blocks (YCbCr), and its thumbnail (see look_alikes)."""

    size: tuple[int, int]
    pixels: bytes
    blocks: Image.Image
    thumbnail: bytes

    @classmethod
    def of(cls, image: Image.Image) -> "Look":
        """`image` is RGB and upright."""
        blocks = image.reduce(_BLOCK).convert("YCbCr")
        return cls(image.size, pixel_digest(image), blocks, thumbnail(image, blocks, _BLOCK))


class PairLook(NamedTuple):
    """What later pairs are compared with: the id, the sizes and hashes of both pictures, a hash of the texts, and both
    thumbnails, one after the other."""

    id: str
    sizes: Sizes
    source: bytes
    target: bytes
    texts: bytes
    thumbnails: bytes

    @classmethod
    def of(cls, pair: EditPair, source: Look, target: Look) -> "PairLook":
        thumbnails = source.thumbnail + target.thumbnail
        return cls(pair.id, (source.size, target.size), source.pixels, target.pixels, _texts_hash(pair), thumbnails)

    def swapped(self) -> "PairLook":
        half = len(self.thumbnails) // 2
        thumbnails = self.thumbnails[half:] + self.thumbnails[:half]
        return PairLook(self.id, (self.sizes[1], self.sizes[0]), self.target, self.source, self.texts, thumbnails)

    @property
    def content(self) -> bytes:
        """A hash of both pictures and the texts."""
        return blake2b(self.source + self.target + self.texts, digest_size=16).digest()


class PairChecks:
    """What `repeats` another pair, for each of a set in turn, of those that are accepted: `keep` them."""

    def __init__(self) -> None:
        # Hash of both pictures, or of these and the texts -> id of the first such pair.
        self._pairs = open_scratch("TABLE hashes (hash BLOB PRIMARY KEY, id TEXT) WITHOUT ROWID")
        self._look_alikes = LookAlikes(self._pairs)

    def keep(self, look: PairLook) -> None:
        for key in (look.source + look.target, look.content):
            self._pairs.execute("INSERT OR IGNORE INTO hashes VALUES (?, ?)", (key, look.id))
        self._look_alikes.keep(look.id, look.sizes, look.thumbnails, look.texts)

    def repeats(self, look: PairLook) -> list[Remark]:
        """What there is to say of a pair beside those before."""
        if other := self._first(look.content):
            kind = "the same pictures and texts as another pair"
            return [Remark(kind, f"{kind}, {other!r}", refused=True)]
        remarks = []
        if other := self._first(look.source + look.target):
            kind = "the same pictures as another pair, with another text"
            remarks.append(Remark(kind, f"{kind}: {other!r}"))
        if other := self._first(look.target + look.source):
            kind = "source and target of another pair, swapped"
            remarks.append(Remark(kind, f"{kind}: {other!r}"))
        return remarks or self._look_alike(look)

    def _first(self, key: bytes) -> str | None:
        rows = self._pairs.execute("SELECT id FROM hashes WHERE hash = ?", (key,))
        return next((str(identity) for (identity,) in rows), None)

    def _look_alike(self, look: PairLook) -> list[Remark]:
        if alike := self._look_alikes.find(look.sizes, look.thumbnails, look.texts):
            identity, same_texts = alike
            texts = "the same text" if same_texts else "another text"
            kind = f"pictures that look like those of another pair, with {texts}"
            return [Remark(kind, f"{kind}: {identity!r}")]
        swapped = look.swapped()
        if alike := self._look_alikes.find(swapped.sizes, swapped.thumbnails, swapped.texts):
            kind = "pictures that look like those of another pair, swapped"
            return [Remark(kind, f"{kind}: {alike[0]!r}")]
        return []


def own_remarks(pair: EditPair, source: Look, target: Look) -> list[Remark]:
    """What there is to say of a pair whatever the others are."""
    return [*_pictures(source, target), *_texts(pair)]


def refused_first(remarks: list[Remark]) -> list[Remark]:
    return sorted(remarks, key=lambda remark: not remark.refused)


def _pictures(source: Look, target: Look) -> list[Remark]:
    if source.pixels == target.pixels:
        kind = "source and target are the same picture"
        return [Remark(kind, kind, refused=True)]
    remarks = []
    for which, look in (("source", source), ("target", target)):
        (width, height), size = look.size, f"{look.size[0]} x {look.size[1]}"
        if max(look.size) > LARGEST_ASPECT * min(look.size):
            kind = f"{which} image is more than {LARGEST_ASPECT} times longer than wide"
            remarks.append(Remark(kind, f"{kind} ({size}): crop it", refused=True))
        if min(width, height) < _SMALLEST_SIDE:
            kind = f"{which} image is tiny"
            remarks.append(Remark(kind, f"{kind} ({size})"))
    (width, height), (other_width, other_height) = source.size, target.size
    sizes = f"({width} x {height} and {other_width} x {other_height})"
    if _ratio(width * other_height, height * other_width) > _MOST_STRETCH:
        kind = "source and target differ in aspect ratio"
        remarks.append(Remark(kind, f"{kind} {sizes}"))
    if _ratio(width * height, other_width * other_height) > _MOST_SCALE:
        kind = "source and target differ in size"
        remarks.append(Remark(kind, f"{kind} {sizes}"))
    if source.size == target.size and _nearly_equal(source.blocks, target.blocks):
        kind = "source and target look the same"
        remarks.append(Remark(kind, f"{kind}: they differ by no more than saving them anew would change"))
    return remarks


def _texts(pair: EditPair) -> list[Remark]:
    remarks = []
    for name in ("instruction", "chosen", "rejected"):
        text = getattr(pair, name)
        if text is None:
            continue
        if name != "rejected" and is_refusal(text):
            kind = f"the {name} is a refusal"
            remarks.append(Remark(kind, f"{kind}: {text[:80]!r}", refused=True))
        for doubt in doubts(text):
            kind = f"the {name} holds {doubt}" if doubt != "mostly repetitions" else f"the {name} repeats itself"
            remarks.append(Remark(kind, f"{kind}: {text[:80]!r}"))
    return remarks


def _texts_hash(pair: EditPair) -> bytes:
    digest = blake2b(digest_size=8)
    for text in (pair.instruction, pair.chosen, pair.rejected):
        digest.update(b"\0" + " ".join((text or "").lower().split()).encode())
    return digest.digest()


def _ratio(a: int, b: int) -> float:
    return max(a, b) / min(a, b)


def _nearly_equal(a: Image.Image, b: Image.Image) -> bool:
    ranges: Any = ImageChops.difference(a, b).getextrema()  # (lowest, highest) of each channel
    return all(high <= most for (_, high), most in zip(ranges, _SAME_BLOCK, strict=True))
