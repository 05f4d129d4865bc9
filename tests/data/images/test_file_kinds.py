import gzip

import pytest

from editcaption_mega.data.images.decode import ImageError, decode_image
from editcaption_mega.data.images.file_kinds import kind_of_file

FILES = {
    "a Git LFS pointer, not the file itself": b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 9\n",
    "AVIF": b"\0\0\0\x20ftypavif\0\0\0\0",
    "HEIC": b"\0\0\0\x18ftypheic\0\0\0\0",
    "a video": b"\0\0\0\x20ftypisom\0\0\2\0",
    "JPEG 2000": b"\0\0\0\x0cjP  \r\n\x87\n",
    "PDF": b"%PDF-1.7\n",
    "SVG": b'<?xml version="1.0"?>\n<!-- drawn -->\n<svg xmlns="http://www.w3.org/2000/svg"/>',
    "ICO": b"\0\0\1\0\1\0\x10\x10\0\0\1\0",
    "TGA": b"\0\0\2\0\0\0\0\0\0\0\0\0\x10\0\x10\0\x18\0" + b"abc" * 256,
    "gzip": gzip.compress(b"x", mtime=0),
    "a zip archive": b"PK\3\4\x14\0",
    "a web page or XML": b"<!DOCTYPE html><html>",
    "nothing but zero bytes": bytes(5000),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_file_that_is_no_picture_is_named_by_its_first_bytes(kind):
    with pytest.raises(ImageError, match=f"^source image: not an image in a format that is read here but {kind}: "):
        decode_image(FILES[kind], where="source image")


@pytest.mark.parametrize("data", [b"", b"x", b"no picture", b"\xff\xd8\xff", b"<" * 5000, b"{" * 5000, b" " * 5000])
def test_a_beginning_that_says_nothing_has_no_name(data):
    assert kind_of_file(data) is None
