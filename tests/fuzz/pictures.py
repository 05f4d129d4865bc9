"""Pictures: damaged files of every format, and small ones that claim much."""

import struct
import zlib
from functools import cache
from pathlib import Path
from random import Random

from PIL import Image

from editcaption_mega.data.images.decode import image_size, read_picture
from editcaption_mega.data.shards.pair_checks import Look
from tests.helpers.image_bytes import encoded, photo

from .driver import Attempt, Reader
from .mutate import mutated

_FORMATS = ("JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF")


@cache
def pictures() -> list[bytes]:
    """Small ones of every format, in the modes and with the extras that it has."""
    frames = {"save_all": True, "append_images": [photo(40, 30), photo(40, 30, "L")]}
    exif = Image.Exif()
    exif[0x0112] = 6
    options = {
        "JPEG": [{}, {"progressive": True}, {"exif": exif}, {"quality": 30, "icc_profile": b"x" * 200}],
        "PNG": [{}, {"exif": exif}, {"icc_profile": b"x" * 200}, frames],
        "WEBP": [{}, {"lossless": True}, {"exif": exif}, frames],
        "GIF": [{}, frames],
        "BMP": [{}],
        "TIFF": [{}, frames, {"compression": "tiff_lzw"}, {"compression": "tiff_deflate"}, {"compression": "jpeg"}],
    }
    modes = {
        "JPEG": ("RGB", "L", "CMYK"), "PNG": ("RGB", "L", "RGBA", "LA", "P", "1", "I;16"), "WEBP": ("RGB", "RGBA"),
        "GIF": ("P", "L"), "BMP": ("RGB", "P", "1"), "TIFF": ("RGB", "RGBA", "CMYK", "I;16", "F", "1", "YCbCr"),
    }  # fmt: skip
    made = []
    for kind in _FORMATS:
        for mode in modes[kind]:
            for extra in options[kind]:
                image = photo(40, 30).convert("I" if mode == "I;16" else mode)
                try:
                    made.append(encoded(image.convert(mode), kind, **extra))
                except (OSError, ValueError, KeyError):
                    continue  # this format has no such mode
    return made


def _chunk(kind: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


def _png(width: int, height: int, depth: int, colour: int, extra: bytes = b"", packed: bytes | None = None) -> bytes:
    if packed is None:
        bits = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}[colour] * depth
        packed = zlib.compress(bytes((1 + (width * bits + 7) // 8) * height), 9)
    header = struct.pack(">IIBBBBB", width, height, depth, colour, 0, 0, 0)
    palette = _chunk(b"PLTE", bytes(3)) if colour == 3 else b""
    return (
        b"\x89PNG\r\n\x1a\n"
        + _chunk(b"IHDR", header)
        + palette
        + extra
        + _chunk(b"IDAT", packed)
        + _chunk(b"IEND", b"")
    )


@cache
def _zeros(megabytes: int) -> bytes:
    packing = zlib.compressobj(9)
    return b"".join(packing.compress(bytes(1 << 20)) for _ in range(megabytes)) + packing.flush()


def picture_bomb(random: Random) -> bytes:
    """A small file that claims much: pixels, pages, frames, passes, text."""
    large = random.choice([(7000, 7000), (9000, 5500), (50_000_000, 1), (1, 50_000_000), (65_535, 700)])
    match random.randrange(9):
        case 0:
            depth, colour = random.choice([(8, 6), (16, 0), (16, 2), (16, 6), (8, 4), (8, 3), (1, 0)])
            extra = _chunk(b"tRNS", b"\x40" * (1 if colour == 3 else 6)) if colour in (0, 2, 3) else b""
            return _png(*random.choice([(5000, 4000), (7000, 7000)]), depth, colour, extra)
        case 1:
            return _png(*random.choice([large, (100_000, 100_000), (2**31 - 1, 2**31 - 1), (0, 5)]), 8, 2, packed=b"")
        case 2:
            kind = random.choice([b"zTXt", b"iTXt", b"iCCP"])
            start = b"a\0\1\0\0\0" if kind == b"iTXt" else b"a\0\0"
            return _png(8, 8, 8, 2, _chunk(kind, start + _zeros(random.choice((1, 2, 200)))) * random.choice((1, 70)))
        case 3:
            return _png(8, 8, 8, 2, packed=_zeros(200))
        case 4:
            one = encoded(photo(1, 1), "GIF")
            start = one.index(b"\x2c\0\0\0\0")
            return one[:start] + one[start:-1] * random.choice((1000, 200_000)) + b";"
        case 5:
            tiff = bytearray(encoded(photo(1, 1), "TIFF"))
            first = struct.unpack_from("<I", tiff, 4)[0]
            fields = struct.unpack_from("<H", tiff, first)[0]
            page, at = bytes(tiff[first : first + 2 + 12 * fields]), first
            for _ in range(random.choice((100, 20_000))):
                struct.pack_into("<I", tiff, at + 2 + 12 * fields, len(tiff))
                at = len(tiff)
                tiff += page + bytes(4)
            return bytes(tiff)
        case 6:
            jpeg = encoded(photo(64, 64), "JPEG", progressive=random.random() < 0.7)
            size = max(jpeg.find(b"\xff\xc2"), jpeg.find(b"\xff\xc0")) + 5
            last = jpeg.rindex(b"\xff\xda")
            height, width = random.choice([(7000, 7000), (65_500, 760), (65_535, 65_535)])
            sized = jpeg[:size] + struct.pack(">HH", height, width) + jpeg[size + 4 : last]
            return sized + jpeg[last:-2] * random.choice((1, 30, 90, 2000)) + b"\xff\xd9"
        case 7:
            gif = bytearray(encoded(photo(4, 4), "GIF"))
            gif[6:10] = struct.pack("<HH", *random.choice([(65_535, 65_535), (7000, 7000), (0, 0)]))
            return bytes(gif)
        case _:
            bmp = bytearray(encoded(photo(4, 4), "BMP"))
            bmp[18:26] = struct.pack(
                "<ii", *random.choice([(7000, 7000), (-7000, 7000), (7000, -7000), (2**31 - 1, 9)])
            )
            return bytes(bmp)


def _pictures(random: Random, folder: Path, attempt: Attempt) -> None:
    source = pictures()
    data = (
        picture_bomb(random)
        if random.random() < 0.05
        else mutated(random, random.choice(source), random.choice(source))
    )
    attempt(image_size, data)
    if picture := attempt(read_picture, data):
        attempt(Look.of, picture.rgb)
        baked = picture.baked()
        assert attempt(read_picture, baked.data).notes == [], "what is stored needs no second repair"


PICTURE_READERS = [Reader("pictures", _pictures, 5)]
