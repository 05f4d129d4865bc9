"""Image bytes to upright 8-bit RGB, and the check that every image passes before it enters a shard.

Pillow raises a dozen exception types for broken files; here they all become `ImageError`, one sentence each.
"""

import io
import re
from typing import NamedTuple

import numpy as np
from PIL import Image

DEFAULT_MAX_PIXELS = 50_000_000  # 7000 x 7000; beyond it the header alone refuses the image
# Above this Pillow itself warns of a decompression bomb (and refuses at twice as much).
LARGEST_MAX_PIXELS = int(1024 * 1024 * 1024 // 4 // 3)

# Only formats whose readers stay inside this process (no PostScript, no external programs).
_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")
# Kept as they are when upright and plain. MPO is what Pillow calls a JPEG with more pictures appended.
_KEPT = {"JPEG": "jpg", "MPO": "jpg", "PNG": "png", "WEBP": "webp"}
# Modes that every reader turns into the same RGB values.
_PLAIN_MODES = ("RGB", "L", "P", "1")

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


def decode_image(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, where: str = "image") -> Image.Image:
    """Decode one image to an upright RGB picture, 8 bits a channel, size (width, height) in pixels.

    EXIF orientation is applied, transparency composited on white, 16-bit grey scaled to 8 bits (v / 257, rounded),
    of an animation the first frame taken. The pixel limit is checked on the header, before anything is decoded.
    Raises ImageError (empty, not an image, truncated, too many pixels, oversized PNG text), naming `where`.
    """
    image = _open(data, max_pixels, where)
    orientation, _ = _orientation(image)
    return _upright_rgb(image, orientation, where)


def image_size(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, where: str = "image") -> tuple[int, int]:
    """(width, height) in pixels of the upright picture, from the header alone. Raises ImageError as `decode_image`."""
    image = _open(data, max_pixels, where)
    width, height = image.size
    return (height, width) if _orientation(image)[0] >= 5 else (width, height)


def bake(data: bytes, *, max_pixels: int = DEFAULT_MAX_PIXELS, where: str = "image") -> Baked:
    """Bytes that every reader decodes to the same upright picture: the original ones wherever that holds.

    A JPEG, PNG or WebP that is upright, opaque, of 8 bits and of one frame is returned byte for byte. Anything else
    (EXIF rotation, transparency, 16-bit, CMYK, animation, another format) becomes a lossless PNG of what
    `decode_image` gives, and `notes` says why. The whole image is decoded either way, so damage is found here.
    Raises ImageError.
    """
    image = _open(data, max_pixels, where)
    orientation, readable = _orientation(image)
    notes = []
    if orientation != 1:
        notes.append(f"EXIF orientation {orientation} applied")
    if not readable:
        notes.append("unreadable EXIF dropped")
    if image.has_transparency_data:
        notes.append(f"transparency (mode {image.mode}) composited on white")
    elif image.mode not in _PLAIN_MODES:
        notes.append(f"mode {image.mode} converted to 8-bit RGB")
    frames = getattr(image, "n_frames", 1)
    if frames > 1 and image.format != "MPO":
        notes.append(f"first of {frames} frames taken")
    if image.format not in _KEPT:
        notes.append(f"format {image.format} replaced")
    extension = _KEPT.get(image.format)
    rgb = _upright_rgb(image, orientation, where)
    if not notes:
        return Baked(data, extension, [])
    return Baked(encode_png(rgb), "png", [*notes, "re-encoded as PNG"])


def encode_png(image: Image.Image) -> bytes:
    """PNG bytes of a picture: lossless, without metadata, the same bytes for the same pixels."""
    buffer = io.BytesIO()
    image.save(buffer, format="PNG")
    return buffer.getvalue()


def _open(data: bytes, max_pixels: int, where: str) -> Image.Image:
    if not 1 <= max_pixels <= LARGEST_MAX_PIXELS:
        raise ValueError(f"max_pixels is {max_pixels}: expected 1 to {LARGEST_MAX_PIXELS}")
    if not data:
        raise ImageError(f"{where}: empty, 0 bytes")
    try:
        image = Image.open(io.BytesIO(data), formats=_FORMATS)
    except (Image.DecompressionBombError, Image.DecompressionBombWarning) as error:
        found = re.search(r"\d+ pixels", str(error))
        raise ImageError(
            f"{where}: {found[0] + ' are' if found else 'far'} over the limit of {max_pixels} pixels: shrink the image"
        ) from None
    except Image.UnidentifiedImageError:
        raise ImageError(f"{where}: not an image, or cut off in its header ({len(data)} bytes)") from None
    except Exception as error:
        raise _broken(error, where) from error
    width, height = image.size
    if width * height > max_pixels:
        limit = f"over the limit of {max_pixels} pixels"
        raise ImageError(f"{where}: {width} x {height} is {limit}: shrink the image or raise max_pixels")
    return image


def _broken(error: Exception, where: str) -> ImageError:
    text = " ".join(str(error).split()) or type(error).__name__
    if isinstance(error, ValueError) and ("MAX_TEXT" in text or "text chunks" in text):
        return ImageError(f"{where}: PNG with an oversized text chunk: remove its metadata ({text})")
    return ImageError(f"{where}: truncated or damaged image ({text})")


def _orientation(image: Image.Image) -> tuple[int, bool]:
    """EXIF orientation, 1 to 8 (1: upright), and whether the EXIF block could be read."""
    try:
        value = image.getexif().get(_ORIENTATION_TAG, 1)
    except Exception:  # a broken EXIF block says nothing of the pixels
        return 1, False
    return (value if value in _UPRIGHT else 1), True


def _upright_rgb(image: Image.Image, orientation: int, where: str) -> Image.Image:
    try:
        image.load()
        rgb = _to_rgb(image)
    except Exception as error:
        raise _broken(error, where) from error
    if rgb is None:
        raise ImageError(f"{where}: pixel mode {image.mode} has no known scale: save the image with 8 bits a channel")
    return rgb.transpose(_UPRIGHT[orientation]) if orientation != 1 else rgb


def _to_rgb(image: Image.Image) -> Image.Image | None:
    """A new 8-bit RGB picture, or None where the range of the values is unknown (32-bit integers, floats)."""
    if image.mode in ("I", "F"):
        return None
    if image.mode.startswith("I;16"):
        values = np.asarray(image).astype(np.uint32)
        grey = ((values + 128) // 257).astype(np.uint8)
        if "transparency" in image.info:
            grey[values == image.info["transparency"]] = 255
        return Image.fromarray(grey).convert("RGB")
    if image.has_transparency_data:
        rgba = image.convert("RGBA")
        white = Image.new("RGBA", rgba.size, (255, 255, 255, 255))
        return Image.alpha_composite(white, rgba).convert("RGB")
    return image.convert("RGB")
