"""Image bytes to upright 8-bit RGB, and the check that every image passes before it enters a shard.

The one guarded way from bytes to a picture. Pillow raises a dozen exception types for broken files; here they all
become `ImageError`, one sentence each. Sizes are checked on the header, before anything is decoded.
"""

import io
import re
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
from PIL import Image

from editcaption_mega.words import one_line

from .file_kinds import kind_of_file

# No picture has more pixels than this, wherever it is read: above it Pillow warns of a decompression bomb.
LARGEST_MAX_PIXELS = int(1024 * 1024 * 1024 // 4 // 3)
DEFAULT_MAX_PIXELS = 50_000_000  # 7000 x 7000: what an import takes unless told otherwise
LARGEST_FILE = 512 << 20  # bytes of one encoded picture

# Only formats whose readers stay inside this process (no PostScript, no external programs).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Kept as they are when upright and plain. MPO is what Pillow calls a JPEG with more pictures appended.
_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
# Modes that every reader turns into the same RGB values.
_PLAIN_MODES = ("RGB", "L", "P", "1")
_MOST_SCANNED = 5_000_000_000  # pixels times passes of a progressive JPEG, which has a dozen passes as a rule
_MOST_COPIED = 10_000_000_000  # bytes: Pillow joins the EXIF blocks of a JPEG one by one
_BAND = 1 << 20  # pixels that are converted at once: what conversion needs beside the picture and its result
_LARGE = 4_000_000  # pixels from which PNG compression must be quick

_JPEG = b"\xff\xd8"
_PNG = b"\x89PNG\r\n\x1a\n"
_PNG_PIXELS = (b"tRNS", b"eXIf")  # ancillary chunks that what a picture looks like depends on
_PNG_TURNED = (b"eXIf", b"Raw profile type exif", b"adobe.xmp")  # where an orientation may stand

_ORIENTATION_TAG = 0x0112
_UPRIGHT = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


class ImageError(ValueError):
    """Bytes that can't be used as an image; the message is one sentence that says which and why."""


class Baked(NamedTuple):
    """What `bake` returns: bytes for a shard, their extension without a dot, and what was done to them."""

    data: bytes
    extension: str
    notes: list[str]


class DecodedPicture(NamedTuple):
    """A picture read in full: upright RGB, the bytes it came from, their extension where they can be kept, and why
    they cannot."""

    rgb: Image.Image
    data: bytes
    extension: str | None
    notes: list[str]

    def baked(self) -> Baked:
        """See `bake`."""
        if not self.notes:
            assert self.extension is not None, "a picture without notes is kept as it is"
            return Baked(self.data, self.extension, [])
        return Baked(encode_png(self.rgb), "png", [*self.notes, "re-encoded as PNG"])


def decode_image(data: bytes, *, max_pixels: int = LARGEST_MAX_PIXELS, where: str = "image") -> Image.Image:
    """Decode one image to an upright RGB picture, 8 bits a channel, size (width, height) in pixels.

    EXIF orientation is applied, transparency composited on white, 16-bit gray scaled to 8 bits (v / 257, rounded),
    of an animation the first frame taken. The pixel limit is checked on the header, before anything is decoded; the
    default is the most that any import takes. Raises ImageError (empty, not an image, truncated, too many pixels),
    naming `where`.
    """
    return read_picture(data, max_pixels=max_pixels, where=where).rgb


def image_size(data: bytes, *, max_pixels: int = LARGEST_MAX_PIXELS, where: str = "image") -> tuple[int, int]:
    """(width, height) in pixels of the upright picture, from the header alone. Raises ImageError as `decode_image`."""

    def upright_size(data: bytes, notes: list[str]) -> tuple[int, int]:
        image = _open(data, max_pixels, where)
        width, height = image.size
        if image.format == "PNG" and not any(mark in data for mark in _PNG_TURNED):
            return width, height  # nothing to be found behind the pixels
        return (height, width) if _orientation(image)[0] >= 5 else (width, height)

    return _read(upright_size, data, max_pixels, where)


def bake(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, where: str = "image") -> Baked:
    """Bytes that every reader decodes to the same upright picture: the original ones wherever that holds.

    A JPEG, PNG or WebP that is upright, opaque, of 8 bits and of one frame is returned byte for byte. Anything else
    (EXIF rotation, transparency, 16-bit, CMYK, animation, another format, metadata that readers refuse) becomes a
    lossless PNG of what `decode_image` gives, and `notes` says why. The whole image is decoded either way, so damage
    is found here. Raises ImageError.
    """
    return read_picture(data, max_pixels=max_pixels, where=where).baked()


def read_picture(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, where: str = "image") -> DecodedPicture:
    """Decode one image in full, and find what other readers would make of its bytes. Raises ImageError."""

    def picture(readable: bytes, notes: list[str]) -> DecodedPicture:
        image = _open(readable, max_pixels, where)
        orientation, exif_is_readable = _orientation(image)
        if orientation != 1:
            notes.append(f"EXIF orientation {orientation} applied")
        if not exif_is_readable:
            notes.append("unreadable EXIF dropped")
        if image.has_transparency_data:
            notes.append(f"transparency (mode {image.mode}) composited on white")
        elif image.mode not in _PLAIN_MODES:
            notes.append(f"mode {image.mode} converted to 8-bit RGB")
        if image.format != "MPO" and (frames := _frames(image)) != 1:
            notes.append(f"first of {frames} frames taken")
        if image.format not in _KEPT:
            notes.append(f"format {image.format} replaced")
        return DecodedPicture(_upright_rgb(image, orientation, where), data, _KEPT.get(image.format or ""), notes)

    return _read(picture, data, max_pixels, where)


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes of a picture: lossless, without metadata, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    quick = {"compress_level": 1} if image.width * image.height > _LARGE else {}
    image.save(buffer, format="PNG", **quick)
    return buffer.getvalue()


def _read[Result](read: Callable[[bytes, list[str]], Result], data: bytes, max_pixels: int, where: str) -> Result:
    """read(data, notes), where whatever a decoder raises becomes an ImageError. A PNG that cannot be read is tried
    without its metadata, since decoders refuse sound pixels for a text or profile that is too large or damaged."""
    if not 1 <= max_pixels <= LARGEST_MAX_PIXELS:
        raise ValueError(f"max_pixels is {max_pixels}: expected 1 to {LARGEST_MAX_PIXELS}")
    try:
        try:
            return read(data, [])
        except ImageError:
            raise
        except Exception:
            pixels, kinds = _without_metadata(data)
            if not kinds:
                raise
            return read(pixels, [f"unreadable metadata left out ({', '.join(kinds)})"])
    except ImageError:
        raise
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        size = re.search(r"\d+ pixels", str(error))
        raise ImageError(
            f"{where}: {size[0] + ' are' if size else 'far'} over the limit of {max_pixels} pixels: shrink the image"
        ) from None
    except Image.UnidentifiedImageError:
        if known := kind_of_file(data):
            raise ImageError(
                f"{where}: not an image in a format that is read here but {known[0]}: {known[1]}"
            ) from None
        raise ImageError(f"{where}: not an image, or cut off in its header ({len(data)} bytes)") from None
    except Exception as error:
        text = one_line(str(error)) or type(error).__name__
        raise ImageError(f"{where}: truncated or damaged image ({text})") from error


def _without_metadata(data: bytes) -> tuple[bytes, list[str]]:
    """A PNG without the chunks that say nothing of its pixels, and the kinds of those; other formats as they are."""
    if not data.startswith(_PNG):
        return data, []
    parts, kinds, start, at = [], [], 0, len(_PNG)
    while at + 8 <= len(data):
        kind, end = data[at + 4 : at + 8], at + 12 + int.from_bytes(data[at : at + 4], "big")
        if kind[0] & 0x20 and kind not in _PNG_PIXELS and kind.isalpha():  # bit 5: an ancillary chunk
            parts.append(data[start:at])
            kinds.append(kind.decode("ascii"))
            start = end
        at = end
    return b"".join([*parts, data[start:]]), sorted(set(kinds))


def _open(data: bytes, max_pixels: int, where: str) -> Image.Image:
    if not data:
        raise ImageError(f"{where}: empty, 0 bytes")
    if len(data) > LARGEST_FILE:
        raise ImageError(f"{where}: {len(data)} bytes, more than the {LARGEST_FILE} that a picture may have: shrink it")
    if data.startswith(_JPEG) and (blocks := data.count(b"\xff\xe1")) * len(data) > _MOST_COPIED:
        raise ImageError(f"{where}: JPEG with {blocks} blocks of metadata: save it anew without")
    image = Image.open(io.BytesIO(data), formats=_FORMATS)
    width, height = image.size
    if width * height > max_pixels:
        mend = "shrink the image" + (" or raise max_pixels" if max_pixels < LARGEST_MAX_PIXELS else "")
        raise ImageError(f"{where}: {width} x {height} is over the limit of {max_pixels} pixels: {mend}")
    if image.format in ("JPEG", "MPO") and (scans := data.count(b"\xff\xda")) * width * height > _MOST_SCANNED:
        raise ImageError(f"{where}: JPEG of {scans} passes over {width} x {height} pixels: save it anew")
    return image


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """EXIF orientation, 1 to 8 (1: upright), and whether the EXIF block could be read."""
    if image.format == "PNG":
        image.load()  # EXIF may stand behind the pixels, and damage of theirs is none of the EXIF block
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block says nothing of the pixels
        return 1, False
    return (value if value in _UPRIGHT else 1), True


def _frames(image: Image.Image) -> int | str:
    """How many frames there are: a number where the header has it, else "several", for counting would read them all.

    The second frame of a GIF or TIFF is looked at, so that damage right behind the first one is an error."""
    if not getattr(image, "is_animated", False):
        return 1
    if image.format not in ("GIF", "TIFF"):
        return int(getattr(image, "n_frames", 1))
    image.seek(1)
    image.seek(0)
    return "several"


def _upright_rgb(image: Image.Image, orientation: int, where: str) -> Image.Image:
    image.load()
    if image.mode in ("I", "F"):
        raise ImageError(f"{where}: pixel mode {image.mode} has no known scale: save the image with 8 bits a channel")
    plain = image.mode == "RGB" and not image.has_transparency_data
    rgb = image if plain else _to_rgb(image)
    return rgb.transpose(_UPRIGHT[orientation]) if orientation != 1 else rgb


def _to_rgb(image: Image.Image) -> Image.Image:
    """A new 8-bit RGB picture, made band by band: whole ones would be held four times at once."""
    rgb = Image.new("RGB", image.size)
    rows = max(1, _BAND // image.width)
    for top in range(0, image.height, rows):
        band = image.crop((0, top, image.width, min(top + rows, image.height)))
        rgb.paste(_band_to_rgb(band), (0, top))
    return rgb


def _band_to_rgb(band: Image.Image) -> Image.Image:
    if band.mode.startswith("I;16"):
        values = np.asarray(band).astype(np.uint32)
        gray = ((values + 128) // 257).astype(np.uint8)
        if "transparency" in band.info:
            gray[values == band.info["transparency"]] = 255
        return Image.fromarray(gray).convert("RGB")
    if band.has_transparency_data:
        rgba = band.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return band.convert("RGB")
