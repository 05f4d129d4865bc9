"""A pool of pairs whose pictures are all different, quickly made: `python -m tests.helpers.pool FOLDER COUNT SIDE`."""

import struct
import sys
import zlib
from pathlib import Path

from editcaption_mega.data.shards.reader import ShardReader, ShardWriter, open_shards
from editcaption_mega.records import EditPair


def png(seed: int, side: int = 32) -> bytes:
    """A picture of one color per seed, side x side."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    row = b"\0" + seed.to_bytes(3, "big") * side
    header = struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)
    body = chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(row * side, 1)) + chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + body


def write_pool(folder: Path, count: int, *, side: int = 32, instruction: str | None = None) -> ShardReader:
    with ShardWriter(folder) as writer:
        for i in range(count):
            pair = EditPair(id=f"pair-{i:07d}", category="semantic", edit_type="color", instruction=instruction)
            writer.add(pair, png(2 * i, side), "png", png(2 * i + 1, side), "png")
    return open_shards(folder)


if __name__ == "__main__":
    write_pool(Path(sys.argv[1]), int(sys.argv[2]), side=int(sys.argv[3]))
