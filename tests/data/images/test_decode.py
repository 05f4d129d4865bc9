import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings, strategies
from PIL import GifImagePlugin, Image, PngImagePlugin, TiffImagePlugin

from editcaption_mega.data.images.decode import (
    LARGEST_MAX_PIXELS,
    ImageError,
    bake,
    decode_image,
    image_size,
    read_picture,
)
from tests.helpers.image_bytes import encoded, photo, png_header_only


@pytest.mark.parametrize("kind, extension", [("JPEG", "jpg"), ("PNG", "png"), ("WEBP", "webp")])
@pytest.mark.parametrize("mode", ["RGB", "L"])
def test_plain_images_keep_their_bytes(kind, extension, mode):
    data = encoded(photo(mode=mode), kind)
    assert bake(data) == (data, extension, [])
    decoded = decode_image(data)
    assert decoded.mode == "RGB" and decoded.size == (40, 30)
    assert np.array_equal(decoded, Image.open(io.BytesIO(data)).convert("RGB"))


def test_opaque_palette_keeps_its_bytes():
    data = encoded(photo().quantize(16))
    assert bake(data) == (data, "png", [])
    assert np.array_equal(decode_image(data), photo().quantize(16).convert("RGB"))


@pytest.mark.parametrize("orientation", range(2, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
def test_exif_orientation_is_baked_in(kind, orientation):
    # What a camera stores for each orientation, from the EXIF definition of the tag: operations that undo it.
    undo = {
        2: lambda a: a[:, ::-1],
        3: lambda a: a[::-1, ::-1],
        4: lambda a: a[::-1],
        5: lambda a: a.transpose(1, 0, 2),
        6: lambda a: np.rot90(a, -1),
        7: lambda a: a[::-1, ::-1].transpose(1, 0, 2),
        8: lambda a: np.rot90(a, 1),
    }[orientation]
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(), kind, exif=exif)
    stored = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))
    assert np.array_equal(decode_image(data), undo(stored))
    baked = bake(data)
    assert baked.extension == "png" and baked.notes[0] == f"EXIF orientation {orientation} applied"
    raw = Image.open(io.BytesIO(baked.data))
    assert np.array_equal(raw, undo(stored)) and raw.getexif().get(0x0112, 1) == 1
    assert image_size(data) == image_size(baked.data) == raw.size


def test_upright_exif_and_unreadable_exif():
    exif = Image.Exif()
    exif[0x0112] = 1
    data = encoded(photo(), "JPEG", exif=exif)
    assert bake(data).data == data
    baked = bake(encoded(photo(), "PNG", exif=b"Exif\0\0junk that is no TIFF"))
    assert baked.notes == ["unreadable EXIF dropped", "re-encoded as PNG"]


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_transparency_is_composited_on_white(mode):
    image = Image.new("RGBA", (2, 1), (200, 200, 200, 255))
    image.putpixel((1, 0), (200, 200, 200, 0))
    data = encoded(image.convert(mode), "TIFF" if mode == "PA" else "PNG")
    assert np.asarray(decode_image(data)).tolist() == [[[200] * 3, [255] * 3]]
    baked = bake(data)
    assert "composited on white" in baked.notes[0] and baked.extension == "png"
    assert np.array_equal(Image.open(io.BytesIO(baked.data)), decode_image(data))


@pytest.mark.parametrize("mode, transparent", [("P", 1), ("L", 10), ("RGB", (10, 10, 10))])
def test_a_transparent_colour_is_white(mode, transparent):
    image = Image.new("L", (2, 1), 10)
    image.putpixel((0, 0), 99)
    image = image.quantize(2) if mode == "P" else image.convert(mode)
    if mode == "P":
        transparent = image.getpixel((1, 0))
    data = encoded(image, transparency=transparent)
    assert np.asarray(decode_image(data)).tolist() == [[[99] * 3, [255] * 3]]
    assert bake(data).extension == "png" and bake(data).notes


def test_half_transparent_is_mixed_with_white():
    data = encoded(Image.new("RGBA", (1, 1), (0, 0, 0, 128)))
    assert decode_image(data).getpixel((0, 0)) == (127, 127, 127)


def test_16_bit_grey_is_scaled_not_clipped():
    values = np.array([[0, 128, 129, 257, 25700, 32768, 65535]], np.uint16)
    for kind in ("PNG", "TIFF"):
        data = encoded(Image.fromarray(values), kind)
        grey = np.asarray(decode_image(data))[0, :, 0].tolist()
        assert grey == [0, 0, 1, 1, 100, 128, 255]
        assert any("I;16" in note for note in bake(data).notes)


def test_cmyk_jpeg():
    data = encoded(Image.new("CMYK", (16, 16), (0, 255, 255, 0)), "JPEG", quality=100)
    red, green, blue = decode_image(data).getpixel((5, 5))
    assert red > 250 and green < 5 and blue < 5
    baked = bake(data)
    assert baked.notes[0] == "mode CMYK converted to 8-bit RGB" and baked.extension == "png"


def test_unknown_scale_is_refused():
    data = encoded(Image.fromarray(np.ones((2, 2), np.float32)), "TIFF")
    with pytest.raises(ImageError, match="pixel mode F has no known scale"):
        decode_image(data)


def test_animation_and_foreign_format_are_named():
    frames = [photo(), photo().transpose(Image.Transpose.ROTATE_180)]
    data = encoded(frames[0], "WEBP", save_all=True, append_images=frames[1:], lossless=True)
    baked = bake(data)
    assert baked.notes == ["first of 2 frames taken", "re-encoded as PNG"]
    assert np.array_equal(Image.open(io.BytesIO(baked.data)), frames[0])
    assert bake(encoded(photo(), "BMP")).notes[0] == "format BMP replaced"


@pytest.mark.parametrize("function", [decode_image, bake, image_size])
def test_bad_bytes_name_the_place(function):
    for data, message in (
        (b"", "row 7 source: empty, 0 bytes"),
        (b"<html>404 not found</html>", "row 7 source: not an image"),
        (encoded(photo(), "JPEG")[:20], "row 7 source: (not an image|truncated)"),
        (b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n", "row 7 source: not an image"),
    ):
        with pytest.raises(ImageError, match=message):
            function(data, where="row 7 source")


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP"])
@pytest.mark.parametrize("part", [0.3, 0.6, 0.9])
def test_truncated_images(kind, part):
    data = encoded(photo(200, 200), kind)
    for function in (decode_image, bake):
        with pytest.raises(ImageError, match="truncated or damaged|not an image"):
            function(data[: int(len(data) * part)])


def test_the_pixel_limit_is_checked_on_the_header():
    bomb = png_header_only(20_000, 20_000)
    for function in (decode_image, bake, image_size):
        with pytest.raises(ImageError, match="400000000 pixels are over the limit of 50000000"):
            function(bomb, max_pixels=50_000_000)
        with pytest.raises(
            ImageError, match="20000 x 2600 is over the limit of 50000000 pixels: .* or raise max_pixels"
        ):
            function(png_header_only(20_000, 2600), max_pixels=50_000_000)
        with pytest.raises(ImageError, match="40 x 30 is over the limit of 1199 pixels"):
            function(encoded(photo()), max_pixels=1199)
        with pytest.raises(ValueError, match="max_pixels is 0: expected 1 to"):
            function(bomb, max_pixels=0)
        with pytest.raises(ValueError, match="max_pixels"):
            function(bomb, max_pixels=LARGEST_MAX_PIXELS + 1)


def test_an_import_takes_less_than_readers_do_so_that_all_that_was_imported_can_be_read():
    data = png_header_only(20_000, 2600)  # 52 million pixels, none of them there
    with pytest.raises(ImageError, match="over the limit of 50000000 pixels"):
        bake(data)
    assert image_size(data) == (20_000, 2600)
    with pytest.raises(ImageError, match="truncated"):
        decode_image(data)
    with pytest.raises(ImageError, match=f"over the limit of {LARGEST_MAX_PIXELS} pixels: shrink the image$"):
        decode_image(png_header_only(20_000, 4600))


def test_a_jpeg_of_thousands_of_passes_is_refused_before_decoding():
    data = encoded(photo(64, 64), "JPEG", progressive=True)
    size = data.index(b"\xff\xc2") + 5
    last = data.rindex(b"\xff\xda")
    bomb = data[:size] + struct.pack(">HH", 7000, 7000) + data[size + 4 : last] + 1000 * data[last:-2] + data[-2:]
    for function in (decode_image, bake, image_size):
        with pytest.raises(ImageError, match=r"JPEG of 1\d\d\d passes over 7000 x 7000 pixels"):
            function(bomb)


def test_a_jpeg_of_many_metadata_blocks_is_refused_before_they_are_joined():
    data = encoded(photo(), "JPEG")
    with pytest.raises(ImageError, match="JPEG with 200000 blocks of metadata"):
        decode_image(data[:2] + 200_000 * b"\xff\xe1\0\x0aExif\0\0MM" + data[2:])
    assert decode_image(data[:2] + 20 * b"\xff\xe1\0\x0aExif\0\0MM" + data[2:]).size == (40, 30)


def test_a_20000_pixel_wide_image_within_the_limit_is_fine():
    data = encoded(Image.new("L", (20_000, 20)))
    assert decode_image(data).size == (20_000, 20) and bake(data).data == data


def chunk(kind, body):
    return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))


LARGE = zlib.compress(bytes(PngImagePlugin.MAX_TEXT_CHUNK + 1))
UNREADABLE = {
    "zTXt": chunk(b"zTXt", b"Raw profile type app1\0\0" + LARGE),
    "iTXt": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + LARGE),
    "many zTXt": 100 * chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))),
    "iCCP": chunk(b"iCCP", b"a\0\0" + LARGE),
    "short gAMA": chunk(b"gAMA", b"a"),
    "wrong checksum": chunk(b"tEXt", b"a\0b")[:-1] + b"x",
    "packed by no known method": chunk(b"zTXt", b"a\0\7" + zlib.compress(b"text")),
}


@pytest.mark.parametrize("after_pixels", [False, True])
@pytest.mark.parametrize("text", UNREADABLE.values(), ids=UNREADABLE)
def test_metadata_that_readers_refuse_is_left_out_and_the_pixels_stay(text, after_pixels):
    plain = encoded(photo())
    place = plain.index(b"IEND" if after_pixels else b"IDAT") - 4
    data = plain[:place] + text + plain[place:]
    if after_pixels and text == UNREADABLE["wrong checksum"]:
        return  # nobody reads that far
    with pytest.raises((ValueError, SyntaxError, OSError)):
        Image.open(io.BytesIO(data)).load()
    picture = read_picture(data)
    baked = picture.baked()
    assert baked.notes[0].startswith("unreadable metadata left out (") and baked.notes[-1] == "re-encoded as PNG"
    assert np.array_equal(Image.open(io.BytesIO(baked.data)), photo()) and np.array_equal(picture.rgb, photo())
    assert len(text) > 99_999 or image_size(data) == (40, 30)


@pytest.mark.parametrize("kind", ["tEXt", "zTXt", "iTXt", "broken zTXt", "no zero byte"])
def test_a_text_that_readers_take_stays(kind):
    text = {
        "tEXt": chunk(b"tEXt", b"a\0" + bytes(2 << 20)),
        "zTXt": chunk(b"zTXt", b"a\0\0" + zlib.compress(bytes(1 << 20))),
        "iTXt": chunk(b"iTXt", b"a\0\0\0\0\0text"),
        "broken zTXt": chunk(b"zTXt", b"a\0\0no zlib"),
        "no zero byte": chunk(b"iTXt", b"a"),
    }[kind]
    plain = encoded(photo())
    data = plain[:33] + text + plain[33:]
    Image.open(io.BytesIO(data)).load()
    assert bake(data) == (data, "png", [])


def damaged_second_frame(kind):
    """The first frame is sound, and what follows it is no frame."""
    frames = [photo(mode="L"), photo(20, 20, mode="L")]
    data = bytearray(encoded(frames[0], kind, save_all=True, append_images=frames[1:]))
    if kind == "GIF":
        second = data.index(b"\x2c", data.index(b"\x2c\0\0\0\0\x28\0\x1e\0") + 1)
        while data[second : second + 1] != b"!":  # the control block before the second picture
            second -= 1
        return bytes(data[:second]) + b"!\xf9\x01\x01\0,"
    first = struct.unpack_from("<I", data, 4)[0]
    struct.pack_into("<I", data, first + 2 + 12 * struct.unpack_from("<H", data, first)[0], len(data) - 3)
    return bytes(data)


@pytest.mark.parametrize("kind", ["TIFF", "GIF"])
def test_damage_right_behind_the_first_frame_is_an_error(kind):
    sound = encoded(photo(), kind, save_all=True, append_images=[photo(20, 20)])
    assert "first of several frames taken" in bake(sound).notes
    with pytest.raises(ImageError, match="truncated or damaged image"):
        bake(damaged_second_frame(kind))


def test_frames_are_not_counted_by_reading_them(monkeypatch):
    one = encoded(photo(1, 1), "GIF")
    start = one.index(b"\x2c\0\0\0\0")
    frames = one[:start] + one[start:-1] * 300_000 + b";"
    seeks = 0

    def count(self, frame, *rest, plain=GifImagePlugin.GifImageFile._seek):
        nonlocal seeks
        seeks += 1
        return plain(self, frame, *rest)

    monkeypatch.setattr(GifImagePlugin.GifImageFile, "_seek", count)
    assert bake(frames).notes[-3:-1] == ["first of several frames taken", "format GIF replaced"] and seeks < 10


@pytest.mark.parametrize(
    "error",
    [
        OSError("broken data stream"), SyntaxError("broken PNG file"), ValueError("bad"), struct.error("unpack"),
        EOFError(), ZeroDivisionError("float division"), MemoryError(), RecursionError("maximum"), KeyError(7),
        IndexError("list index"), TypeError("an integer is required"), AttributeError("None"), OverflowError("large"),
        NotImplementedError("zip"), UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid"), AssertionError(),
        zlib.error(), Image.UnidentifiedImageError("cannot"), Image.DecompressionBombError("(179 pixels)"),
        Exception("odd"), Image.DecompressionBombWarning("odd"), UserWarning("Corrupt EXIF data"),
    ],
    ids=lambda error: type(error).__name__,
)  # fmt: skip
@pytest.mark.parametrize("place", ["open", "load", "is_animated", "convert"])
def test_whatever_pillow_raises_is_an_image_error(monkeypatch, error, place):
    def fail(*_, **__):
        raise error

    data = encoded(photo(mode="CMYK"), "TIFF")
    if place == "open":
        monkeypatch.setattr(Image, "open", fail)
    elif place == "is_animated":
        monkeypatch.setattr(TiffImagePlugin.TiffImageFile, "is_animated", property(fail), raising=False)
    else:
        monkeypatch.setattr(Image.Image if place == "convert" else TiffImagePlugin.TiffImageFile, place, fail)
    with pytest.raises(ImageError, match="^row 3: .") as caught:
        read_picture(data, where="row 3")
    assert "\n" not in str(caught.value)


@settings(max_examples=80, deadline=None)
@given(data=strategies.data())
def test_mutated_files_of_all_formats_are_pictures_or_image_errors(data):
    kind = data.draw(strategies.sampled_from(["JPEG", "PNG", "WEBP", "GIF", "BMP", "TIFF"]))
    whole = bytearray(encoded(photo(9, 7), kind))
    for _ in range(data.draw(strategies.integers(1, 4))):
        place = data.draw(strategies.integers(0, len(whole) - 1))
        whole[place] = data.draw(strategies.sampled_from([0, 1, 0x7F, 0x80, 0xFF]))
    if data.draw(strategies.booleans()):
        del whole[data.draw(strategies.integers(0, len(whole))) :]
    try:
        picture = read_picture(bytes(whole), max_pixels=100_000)
    except ImageError:
        return
    assert picture.rgb.mode == "RGB" and bake(picture.baked().data).notes == []


def test_conversion_in_bands_is_the_same_as_at_once(monkeypatch):
    monkeypatch.setattr("editcaption_mega.data.images.decode._BAND", 3 * 40)
    grey = Image.fromarray(np.arange(1200, dtype=np.uint16).reshape(30, 40) * 54)
    for image in (photo(mode="RGBA"), photo(mode="LA"), photo(mode="CMYK"), photo().quantize(9), grey):
        image.putalpha(77) if image.mode in ("RGBA", "LA") else None
        data = encoded(image, "TIFF")
        banded = np.asarray(decode_image(data))
        with monkeypatch.context() as whole:
            whole.setattr("editcaption_mega.data.images.decode._BAND", 1 << 20)
            assert np.array_equal(banded, decode_image(data))
