"""Pairs that look like pairs before, though their files and pixels differ: saved anew, or in another size.

Of each picture a thumbnail of 8 x 8 pixels is kept. Saving anew changes none of its values by more than two or three
of 255, halving the size by a handful; two edits of one picture differ by more, unless they are tiny.
"""

from itertools import product

import numpy as np
from PIL import Image

from editcaption_mega.data.scratch import Scratch

SIDE = 8
_MANY_BLOCKS = 32
_SAME_SIZE, _OTHER_SIZE = 3, 6  # by how much values of thumbnails may differ
_PLACES = (9, 54, 64 + 14, 64 + 49)  # pixels of both thumbnails, far apart, whose lightness is in the index
_STEP, _SLACK = 24, 2  # of the coarse values by which pairs are looked up, and by how much those may differ
_MOST_ALIKE = 64  # pairs that are kept for the same coarse values: those of plain pictures are all alike


type Size = tuple[int, int]
type Sizes = tuple[Size, Size]  # of the source, of the target


class LookAlikes:
    """The pairs so far, by what their pictures look like."""

    def __init__(self, database: Scratch) -> None:
        """`database`: where its table comes to be."""
        # What differs at one of a few places differs, and the index says so without the row: hardly one is read.
        places = [f"place_{i}" for i in range(len(_PLACES))]
        columns = "number INTEGER PRIMARY KEY, look BLOB, id TEXT, sizes TEXT, thumbnails BLOB, texts BLOB"
        database.execute(f"CREATE TABLE pairs ({columns}, {', '.join(f'{place} INTEGER' for place in places)})")
        database.execute(f"CREATE INDEX by_look ON pairs (look, {', '.join(places)})")
        self._near = " AND ".join(f"{place} BETWEEN ? AND ?" for place in places)
        self._pairs = database

    def keep(self, identity: str, sizes: Sizes, thumbnails: bytes, texts: bytes) -> None:
        """`sizes` are those of both pictures, `thumbnails` theirs one after the other, `texts` a hash."""
        look = bytes(int(value) // _STEP for value in _coarse(thumbnails))
        ((count,),) = self._pairs.execute("SELECT COUNT(*) FROM pairs WHERE look = ?", (look,))
        if count < _MOST_ALIKE:
            values = (look, identity, str(sizes), thumbnails, texts, *_places(thumbnails))
            self._pairs.execute(f"INSERT INTO pairs VALUES (NULL{', ?' * len(values)})", values)

    def find(self, sizes: Sizes, thumbnails: bytes, texts: bytes) -> tuple[str, bool] | None:
        """(id of a pair whose pictures look like these, whether it has these texts, too), one with them if there is."""
        coarse = _coarse(thumbnails)
        steps = ({int(max(0, value - _SLACK)) // _STEP, int(value + _SLACK) // _STEP} for value in coarse)
        looks = [bytes(look) for look in product(*steps)]
        ranges = [end for value in _places(thumbnails) for end in (value - _OTHER_SIZE, value + _OTHER_SIZE)]
        alike = (
            f"SELECT id, sizes, thumbnails, texts FROM pairs WHERE look IN ({', '.join('?' * len(looks))}) "
            f"AND {self._near} ORDER BY look, number"
        )
        pairs = self._pairs.execute(alike, [*looks, *ranges]).fetchall()
        if not pairs:
            return None
        values = np.frombuffer(thumbnails, np.uint8).astype(np.int16)
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


def _places(thumbnails: bytes) -> list[int]:
    return [thumbnails[3 * place] for place in _PLACES]


def _means() -> np.ndarray:
    """[values of two thumbnails, 10] float64, which make the means of `_coarse`; all are exact."""
    pixels = np.eye(2 * SIDE * SIDE * 3).reshape(-1, 2, 2, SIDE // 2, 2, SIDE // 2, 3)
    quarters = pixels.mean((3, 5))
    return np.concatenate([quarters[..., 0].reshape(len(pixels), -1), quarters[:, 0, ..., 1:].mean((1, 2))], 1)


_MEANS = _means()
