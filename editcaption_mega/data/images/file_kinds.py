"""What a file is that is not what it should be, by its first bytes: many a wrong file has the right name."""

import re

_SAVE = "save it as PNG or JPEG"
_KINDS = (
    (rb"version https://git-lfs", "a Git LFS pointer, not the file itself", "run 'git lfs pull'"),
    (rb"....ftypavi[fs]", "AVIF", _SAVE),
    (rb"....ftyp(?:hei[cxms]|hev[cx]|mif1|msf1)", "HEIC", _SAVE),
    (rb"....ftyp", "a video", "save a frame as PNG"),
    (rb"\x1aE\xdf\xa3", "a video", "save a frame as PNG"),
    (rb"\0\0\0\x0cjP  |\xffO\xffQ", "JPEG 2000", _SAVE),
    (rb"\xff\x0a|\0\0\0\x0cJXL ", "JPEG XL", _SAVE),
    (rb"8BPS", "a Photoshop file", _SAVE),
    (rb"%PDF", "PDF", _SAVE),
    (rb"%!PS", "PostScript", _SAVE),
    (rb"\x00\x00[\x01\x02]\x00[^\x00]\x00", "ICO", _SAVE),
    (rb"\0[\x00\x01][\x01-\x03\x09-\x0b].{13}[\x08\x10\x18\x20]", "TGA", _SAVE),
    (rb"\x1f\x8b", "gzip", "unpack it with gunzip"),
    (rb"PK\x03\x04", "a zip archive", "unpack it"),
    (rb"7z\xbc\xaf", "a 7-Zip archive", "unpack it"),
    (rb"\x28\xb5\x2f\xfd", "Zstandard", "unpack it with unzstd"),
    (rb"\xfd7zXZ\0", "xz", "unpack it with unxz"),
    (rb"BZh[1-9]", "bzip2", "unpack it with bunzip2"),
    (rb"PAR1", "parquet", "import it with the --format of its set"),
    (rb"\x93NUMPY", "a NumPy array", _SAVE),
    (rb"[^<]{0,9}(?:<[?!][^>]{0,400}>\s{0,9}){0,4}<svg\b", "SVG", _SAVE),
    (rb"(?:\xef\xbb\xbf)?\s*<(?:!DOCTYPE html|html|head|\?xml)\b", "a web page or XML", "download the file again"),
    (rb"\s*[{\[]\s*\"", "JSON", "download the file again"),
    (rb"\0+$", "nothing but zero bytes", "copy it again"),
)  # fmt: skip
_FORMS = [(re.compile(form, re.DOTALL | re.IGNORECASE), kind, mend) for form, kind, mend in _KINDS]


def kind_of_file(data: bytes) -> tuple[str, str] | None:
    """(what a file is, how to mend it); None where its beginning says nothing."""
    head = data[:2000]
    return next(((kind, mend) for form, kind, mend in _FORMS if form.match(head)), None)
