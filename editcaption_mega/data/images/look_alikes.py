"""Pairs that look like pairs before, though their files and pixels differ: saved anew, or in another size.

Of each picture a thumbnail of 8 x 8 pixels is kept. Saving anew changes none of its values by more than two or three
of 255, halving the size by a handful; two edits of one picture differ by more, unless they are tiny.
"""

from collections import defaultdict
from itertools import product
from typing import NamedTuple

import numpy as np
from PIL import Image

SIDE = 8
_MANY_BLOCKS = 32
_SAME_SIZE, _OTHER_SIZE = 3, 6  # by how much values of thumbnails may differ
_STEP, _SLACK = 24, 2  # of the coarse values by which pairs are looked up, and by how much those may differ
_MOST_ALIKE = 64  # pairs that are kept for the same coarse values: those of plain pictures are all alike


type Size = tuple[int, int]
type Sizes = tuple[Size, Size]  # of the source, of the target


class _Seen(NamedTuple):
    id: str
    sizes: Sizes
    thumbnails: bytes
    texts: bytes


class LookAlikes:
    """The pairs so far, by what their pictures look like."""

    def __init__(self) -> None:
        self._by_look: dict[bytes, list[_Seen]] = defaultdict(list)

    def keep(self, identity: str, sizes: Sizes, thumbnails: bytes, texts: bytes) -> None:
        """`sizes` are those of both pictures, `thumbnails` theirs one after the other, `texts` a hash."""
        pairs = self._by_look[bytes(int(value) // _STEP for value in _coarse(thumbnails))]
        if len(pairs) < _MOST_ALIKE:
            pairs.append(_Seen(identity, sizes, thumbnails, texts))

    def find(self, sizes: Sizes, thumbnails: bytes, texts: bytes) -> tuple[str, bool] | None:
        """(id of a pair whose pictures look like these, whether it has these texts, too), one with them if there is."""
        values = np.frombuffer(thumbnails, np.uint8).astype(np.int16)
        steps = ({int(value - _SLACK) // _STEP, int(value + _SLACK) // _STEP} for value in _coarse(thumbnails))
        others = []
        for look in product(*steps):
            for pair in self._by_look.get(bytes(max(0, step) for step in look), ()):
                difference = np.abs(np.frombuffer(pair.thumbnails, np.uint8) - values).max()
                if difference <= (_SAME_SIZE if pair.sizes == sizes else _OTHER_SIZE):
                    if pair.texts == texts:
                        return pair.id, True
                    others.append(pair.id)
        return (others[0], False) if others else None


def thumbnail(image: Image.Image, blocks: Image.Image, block: int) -> bytes:
    """Of an RGB picture, YCbCr; from the means of its blocks where there are enough, as that is quicker."""
    if min(blocks.size) < _MANY_BLOCKS:
        return image.resize((SIDE, SIDE), Image.Resampling.BILINEAR).convert("YCbCr").tobytes()
    box = (0, 0, image.width / block, image.height / block)
    return blocks.resize((SIDE, SIDE), Image.Resampling.BILINEAR, box=box).tobytes()


def _coarse(thumbnails: bytes) -> np.ndarray:
    """Ten values, 0 to 255, of two pictures: how light their quarters are, and the color of the first."""
    pictures = np.frombuffer(thumbnails, np.uint8).reshape(2, 2, SIDE // 2, 2, SIDE // 2, 3)
    quarters = pictures.mean((2, 4))
    return np.concatenate([quarters[..., 0].ravel(), quarters[0, ..., 1:].mean((0, 1))])
