"""What is kept of each picture of a set to find it again: hashes of its bytes and of its pixels, and a thumbnail.

The thumbnail decides, not a perceptual hash. Over 742 pairs (300 rendered, 442 real ones and parts of them) every pair
that was saved anew (quality 60 to 90) or resized (0.5 to 2) stays within a root mean square of 3 of 255 and unrelated
ones begin at 7 in all but one of 10,000 comparisons; imagehash's phash differs by up to 12 of 64 bits for the same,
and one unrelated comparison in 10,000 by 10 or fewer: for a set of 2,000 that is a false alarm for every fifth pair.
"""

from dataclasses import dataclass
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editcaption_mega.data.array_file import is_made_from, map_arrays, write_arrays
from editcaption_mega.data.images.decode import ImageError, decode_image
from editcaption_mega.data.images.pixel_digest import pixel_digest
from editcaption_mega.data.shard_processes import over_samples
from editcaption_mega.data.shards.reader import SIDES, ShardError, ShardReader, open_shards
from editcaption_mega.progress import Progress, no_progress

LIGHT, COLOR = 16, 8  # side of the thumbnail: luma, and both chroma channels
BYTES = LIGHT * LIGHT + 2 * COLOR * COLOR
NAME = "duplicates.safetensors"  # beside the index of the folder
_FORMAT = 1


class PictureMark(NamedTuple):
    """file, pixels: 8 bytes each of a hash; thumbnail: BYTES values, luma [16, 16], then Cb and Cr [8, 8, 2]."""

    file: int
    pixels: int
    thumbnail: bytes

    @classmethod
    def of(cls, data: bytes, where: str) -> "PictureMark":
        """Raises ImageError."""
        image = decode_image(data, where=where)
        file = blake2b(data, digest_size=8).digest()
        return cls(_number(file), _number(pixel_digest(image)[:8]), picture_thumbnail(image))


@dataclass(frozen=True)
class SetMarks:
    """Of N pairs; source, target. file, pixels [N, 2] int64; thumbnails [N, 2, BYTES] uint8."""

    file: NDArray[np.int64]
    pixels: NDArray[np.int64]
    thumbnails: NDArray[np.uint8]

    def __len__(self) -> int:
        return len(self.file)


def picture_thumbnail(image: Image.Image) -> bytes:
    """Of an RGB picture: means of its 16 x 16 parts, luma; and of its 8 x 8 parts, chroma."""
    small = image.resize((LIGHT, LIGHT), Image.Resampling.BILINEAR, reducing_gap=3.0).convert("YCbCr")
    values = np.asarray(small)
    chroma = values[..., 1:].reshape(COLOR, 2, COLOR, 2, 2).mean((1, 3))
    return values[..., 0].tobytes() + np.rint(chroma).astype(np.uint8).tobytes()


def marks_of(
    folder: Path, *, workers: int = 0, progress: Progress = no_progress, notes: list[str] | None = None
) -> tuple[ShardReader, SetMarks]:
    """The folder opened, and the marks of its pairs: mapped from DIR/duplicates.safetensors where they are those of
    this fingerprint, else made by processes (0: one for each core) and kept there. notes: is given a sentence where
    they cannot be kept. Raises ShardError, also for a picture that cannot be read."""
    shards, path = open_shards(folder), folder / NAME
    key = {"format": _FORMAT, "fingerprint": shards.fingerprint}
    if is_made_from(path, key):
        return shards, SetMarks(**map_arrays(path, key))
    marks = _made(shards, workers, progress)
    try:
        write_arrays(path, key, vars(marks))
    except OSError as error:
        if notes is not None:
            notes.append(f"{path} cannot be written ({error.strerror}), so the next search reads all pictures again")
    return shards, marks


def _made(shards: ShardReader, workers: int, progress: Progress) -> SetMarks:
    count = len(shards)
    marks = SetMarks(
        np.empty((count, 2), np.int64), np.empty((count, 2), np.int64), np.empty((count, 2, BYTES), np.uint8)
    )
    for at, both in progress(over_samples(shards, pair_marks, workers), count, f"pictures of {shards.directories[0]}"):
        if isinstance(both, str):
            raise ShardError(f"{both}: editcaption validate-shards names all that is damaged")
        for side, mark in enumerate(both):
            marks.file[at, side], marks.pixels[at, side] = mark.file, mark.pixels
            marks.thumbnails[at, side] = np.frombuffer(mark.thumbnail, np.uint8)
    return marks


def pair_marks(shards: ShardReader, at: int) -> list[PictureMark] | str:
    """Of both pictures, or why there are none."""
    try:
        return [PictureMark.of(shards.picture(at, side), f"{side} of {shards.ids[at]}") for side in SIDES]
    except ImageError as error:
        return str(error)


def _number(digest: bytes) -> int:
    return int.from_bytes(digest, "little", signed=True)
