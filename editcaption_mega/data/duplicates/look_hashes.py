"""A hash of what a picture looks like, from its thumbnail: signs of its 64 lowest frequencies (Zauner 2010, section
3.2.1, with zero for the median, so that mirroring flips the bits of odd columns and no others).

A bit whose frequency is nearly absent is one that saving anew may flip: `weakest` names those of each band.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from .picture_marks import LIGHT

BITS = 64
CROP = 0.05  # the share of each side that a cropped copy has lost
_AT_ONCE = 1 << 14

Hashes = NDArray[np.uint64]


class LookHashes(NamedTuple):
    """Of N pictures. bits [N] uint64; order [N, 64] uint8: their bits, the weakest first."""

    bits: Hashes
    order: NDArray[np.uint8]


def look_hashes(light: NDArray[np.uint8], cropped: bool = False) -> LookHashes:
    """light [N, 16, 16]: thumbnails, luma. cropped: of a copy that lost CROP of each side, half at each end."""
    rows = _frequencies() @ (crop_matrix(0.5) if cropped else np.eye(LIGHT, dtype=np.float32))
    bits, order = np.empty(len(light), np.uint64), np.empty((len(light), BITS), np.uint8)
    u, v = _LOWEST
    for start in range(0, len(light), _AT_ONCE):
        values = light[start : start + _AT_ONCE].astype(np.float32)
        strength = (rows @ values @ rows.T)[:, u, v]
        packed = np.ascontiguousarray(np.packbits(strength > 0, axis=1, bitorder="little"))
        bits[start : start + len(values)] = packed.view("<u8")[:, 0]
        order[start : start + len(values)] = np.abs(strength).argsort(axis=1)
    return LookHashes(bits, order)


def of_mirrored(hashes: LookHashes) -> LookHashes:
    """Of the pictures left for right."""
    return LookHashes(hashes.bits ^ _ODD_COLUMNS, hashes.order)


def crop_matrix(start: float) -> NDArray[np.float32]:
    """[16, 16]: a line of a thumbnail -> that of a copy without CROP of it; `start` of that (0 .. 1) is lost before."""
    edges = CROP * start + (1 - CROP) * np.arange(LIGHT + 1) / LIGHT
    parts = np.arange(LIGHT + 1) / LIGHT
    overlap = np.minimum(edges[1:, None], parts[None, 1:]) - np.maximum(edges[:-1, None], parts[None, :-1])
    overlap = np.clip(overlap, 0, None)
    shares: NDArray[np.float32] = (overlap / overlap.sum(1, keepdims=True)).astype(np.float32)
    return shares


def _frequencies() -> NDArray[np.float32]:
    """[16, 16]: the discrete cosine transform (type 2) of a line."""
    k, n = np.arange(LIGHT)[:, None], np.arange(LIGHT)[None]
    angles = np.pi * k * (2 * n + 1) / (2 * LIGHT)
    cosines: NDArray[np.float32] = np.cos(angles, dtype=np.float32)
    return cosines


def _lowest() -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Rows and columns of the 64 lowest frequencies but the mean, lowest first."""
    places = [(u, v) for u in range(LIGHT) for v in range(LIGHT) if u or v]
    places.sort(key=lambda place: (place[0] + place[1], place[0]))
    u, v = np.array(places[:BITS], np.int64).T
    return u, v


_LOWEST = _lowest()
_ODD_COLUMNS = np.packbits(_LOWEST[1] % 2 == 1, bitorder="little").view("<u8")[0]
