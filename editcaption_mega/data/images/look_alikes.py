"""Pairs that look like pairs before, though their files and pixels differ: saved anew, or in another size.

Of each picture a thumbnail of 8 x 8 pixels is kept. Saving anew changes none of its values by more than two or three
of 255, halving the size by a handful; two edits of one picture differ by more, unless they are tiny.
"""

from itertools import product

import numpy as np
from PIL import Image

from editcaption_mega.data.scratch import open_scratch

SIDE = 8
_MANY_BLOCKS = 32
_SAME_SIZE, _OTHER_SIZE = 3, 6  # by how much values of thumbnails may differ
_STEP, _SLACK = 24, 2  # of the coarse values by which pairs are looked up, and by how much those may differ
_MOST_ALIKE = 64  # pairs that are kept for the same coarse values: those of plain pictures are all alike


type Size = tuple[int, int]
type Sizes = tuple[Size, Size]  # of the source, of the target


class LookAlikes:
    """The pairs so far, by what their pictures look like."""

    def __init__(self) -> None:
        columns = "number INTEGER PRIMARY KEY, look BLOB, id TEXT, sizes TEXT, thumbnails BLOB, texts BLOB"
        self._pairs = open_scratch(f"TABLE pairs ({columns})", "INDEX by_look ON pairs (look)")

    def keep(self, identity: str, sizes: Sizes, thumbnails: bytes, texts: bytes) -> None:
        """`sizes` are those of both pictures, `thumbnails` theirs one after the other, `texts` a hash."""
        look = bytes(int(value) // _STEP for value in _coarse(thumbnails))
        ((count,),) = self._pairs.execute("SELECT COUNT(*) FROM pairs WHERE look = ?", (look,))
        if count < _MOST_ALIKE:
            values = (look, identity, str(sizes), thumbnails, texts)
            self._pairs.execute("INSERT INTO pairs VALUES (NULL, ?, ?, ?, ?, ?)", values)

    def find(self, sizes: Sizes, thumbnails: bytes, texts: bytes) -> tuple[str, bool] | None:
        """(id of a pair whose pictures look like these, whether it has these texts, too), one with them if there is."""
        values = np.frombuffer(thumbnails, np.uint8).astype(np.int16)
        steps = ({int(value - _SLACK) // _STEP, int(value + _SLACK) // _STEP} for value in _coarse(thumbnails))
        looks = [bytes(max(0, step) for step in look) for look in product(*steps)]
        alike = (
            "SELECT id, sizes, thumbnails, texts FROM pairs WHERE look IN "
            f"({', '.join('?' * len(looks))}) ORDER BY look, number"
        )
        pairs = self._pairs.execute(alike, looks).fetchall()
        if not pairs:
            return None
        its_thumbnails = np.frombuffer(b"".join(pair[2] for pair in pairs), np.uint8).reshape(len(pairs), -1)
        differences = np.abs(its_thumbnails - values).max(1).tolist()
        size, others = str(sizes), []
        for (other, its_sizes, _, its_texts), difference in zip(pairs, differences, strict=True):
            if difference <= (_SAME_SIZE if its_sizes == size else _OTHER_SIZE):
                if its_texts == texts:
                    return str(other), True
                others.append(str(other))
        return (others[0], False) if others else None


def thumbnail(image: Image.Image, blocks: Image.Image, block: int) -> bytes:
    """Of an RGB picture, YCbCr; from the means of its blocks where there are enough, as that is quicker."""
    if min(blocks.size) < _MANY_BLOCKS:
        return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("YCbCr").tobytes()
    box = (0, 0, image.width / block, image.height / block)
    return blocks.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box).tobytes()


def _coarse(thumbnails: bytes) -> list[float]:
    """Ten values, 0 to 255, of two pictures: how light their quarters are, and the color of the first."""
    values: list[float] = (np.frombuffer(thumbnails, np.uint8) @ _MEANS).tolist()
    return values


def _means() -> np.ndarray:
    """[values of two thumbnails, 10] float64, which make the means of `_coarse`; all are exact."""
    pixels = np.eye(2 * SIDE * SIDE * 3).reshape(-1, 2, 2, SIDE // 2, 2, SIDE // 2, 3)
    quarters = pixels.mean((3, 5))
    return np.concatenate([quarters[..., 0].reshape(len(pixels), -1), quarters[:, 0, ..., 1:].mean((1, 2))], 1)


_MEANS = _means()
