"""A short name for the weights of a folder or checkpoint, by which others are told apart."""

import hashlib
from pathlib import Path

from .manifest import MANIFEST

DIGEST_WHOLE, DIGEST_EVERY, DIGEST_BLOCK = 64 << 20, 16 << 20, 64 << 10  # bytes


def weights_digest(where: Path) -> str:
    """Changes when the weights do: names and sizes of the files, and 64 KiB out of every 16 MiB of them (a small model
    is read whole). Any training changes every tensor, and 470 GB need not be read to see it."""
    names = sorted(path for path in where.iterdir() if path.suffix == ".safetensors" or path.name == MANIFEST)
    digest = hashlib.sha256()
    for path in names:
        size = path.stat().st_size
        digest.update(f"{path.name}:{size}\n".encode())
        with open(path, "rb") as file:
            if size <= DIGEST_WHOLE:
                digest.update(file.read())
                continue
            for start in range(0, size, DIGEST_EVERY):
                file.seek(start)
                digest.update(file.read(DIGEST_BLOCK))
    return digest.hexdigest()[:32]
