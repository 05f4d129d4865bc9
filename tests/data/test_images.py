import io

import numpy as np
import pytest
from image_bytes import encoded, photo, png_header_only
from PIL import Image, PngImagePlugin

from editcaption_mega.data.images import LARGEST_MAX_PIXELS, ImageError, bake, decode_image, image_size


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
            function(bomb)
        with pytest.raises(ImageError, match="20000 x 2600 is over the limit of 50000000 pixels"):
            function(png_header_only(20_000, 2600))
        with pytest.raises(ImageError, match="40 x 30 is over the limit of 1199 pixels"):
            function(encoded(photo()), max_pixels=1199)
    with pytest.raises(ValueError, match="max_pixels is 0: expected 1 to"):
        decode_image(bomb, max_pixels=0)
    with pytest.raises(ValueError, match="max_pixels"):
        decode_image(bomb, max_pixels=LARGEST_MAX_PIXELS + 1)


def test_a_20000_pixel_wide_image_within_the_limit_is_fine():
    data = encoded(Image.new("L", (20_000, 20)))
    assert decode_image(data).size == (20_000, 20) and bake(data).data == data


@pytest.mark.parametrize("after_pixels", [False, True])
def test_oversized_png_text(after_pixels):
    info = PngImagePlugin.PngInfo()
    info.add_text("comment", "x" * (PngImagePlugin.MAX_TEXT_CHUNK + 1), zip=True)
    if after_pixels:
        kind, body, *_ = info.chunks[0]
        info = PngImagePlugin.PngInfo()
        info.add(kind, body, after_idat=True)
    data = encoded(photo(), pnginfo=info)
    with pytest.raises(ImageError, match="oversized text chunk: remove its metadata"):
        decode_image(data)
