"""Which format an encoded picture has, from its first bytes; nothing is decoded."""

_MAGIC = ((b"\x89PNG\r\n\x1a\n", "image/png"), (b"\xff\xd8\xff", "image/jpeg"), (b"GIF8", "image/gif"))
_EXTENSIONS = {"image/png": "png", "image/jpeg": "jpg", "image/webp": "webp", "image/gif": "gif"}


def media_type(data: bytes) -> str:
    """image/png, image/jpeg, image/webp or image/gif. Raises ValueError for anything else."""
    for magic, kind in _MAGIC:
        if data.startswith(magic):
            return kind
    if data[:4] == b"RIFF" and data[8:12] == b"WEBP":
        return "image/webp"
    raise ValueError(f"a picture of {len(data)} bytes begins with {data[:8]!r}: expected PNG, JPEG, WebP or GIF")


def extension(data: bytes) -> str:
    """png, jpg, webp or gif, as `media_type`."""
    return _EXTENSIONS[media_type(data)]
