"""Shards whose bytes are changed behind their index, as disks and careless copies do."""

import shutil
from collections.abc import Mapping
from pathlib import Path

from PIL import Image

from editcaption_mega.data import open_shards
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.shards.layout import MEMBERS

KINDS = ("no picture", "another picture", "no record")


def damaged(shards: Path, to: Path, changes: Mapping[str, str]) -> Path:
    """A copy of the folder, in which samples (by id) are damaged as KINDS say."""
    shutil.copytree(shards, to)
    with open_shards(to) as reader:
        for name, kind in changes.items():
            damage(reader, list(reader.ids).index(name), kind)
    return to


def damage(reader, i: int, kind: str) -> None:
    member = MEMBERS.index("json" if kind == "no record" else "target")
    offset, size = int(reader.columns.offset[i, member]), int(reader.columns.bytes[i, member])
    content = b"\0" * size
    if kind == "another picture":
        content = encode_png(Image.new("RGB", reader.meta(i).target_size))
        assert len(content) <= size, "one that is smaller, with nothing behind it that readers look at"
        content += b"\0" * (size - len(content))
    with open(reader.path(i), "r+b") as file:
        file.seek(offset)
        file.write(content)
