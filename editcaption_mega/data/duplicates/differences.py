"""How thumbnails differ: as they are, with one left for right, or with one cropped as a copy may be."""

from itertools import product
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from .look_hashes import crop_matrix
from .picture_marks import COLOR, LIGHT

Thumbnails = NDArray[np.uint8]  # [M, BYTES]
Floats = NDArray[np.float32]

_CROPS = (0.0, 0.25, 0.5, 0.75, 1.0)  # where a copy begins, as a share of what it has lost


class CopyLimits(NamedTuple):
    """What two pictures may differ by, of 255: root mean square of luma and of chroma, and luma of one part of 256."""

    light: float
    color: float
    part: float


# Measured on planted copies and unrelated pairs (tools/bench.py duplicates).
COPY = CopyLimits(3.5, 4.0, 28.0)
CROPPED = CopyLimits(4.0, 5.0, 20.0)  # of smoothed thumbnails: the edges of a crop lie between their parts
MAYBE_CROPPED = 16.0  # luma, with half of what is lost on each side


class Difference(NamedTuple):
    """Of M pictures: root mean square of luma [M], and whether it is within the limits [M]."""

    light: Floats
    within: NDArray[np.bool_]


def difference(a: Thumbnails, b: Thumbnails, mirrored: bool = False) -> Difference:
    """mirrored: a left for right."""
    light, color = _light(a), _color(a)
    if mirrored:
        light, color = light[:, :, ::-1], color[:, :, ::-1]
    return _within(light - _light(b), color - _color(b), COPY)


def cropped_differences(a: Thumbnails, b: Thumbnails) -> list[Difference]:
    """b as what is left of a when CROP of each side is cut off, for 25 places of the cut: the same place of the list is
    the same place of the cut."""
    light, color, mine = _light(a), _color(a) - _color(b), _SMOOTH @ _light(b) @ _SMOOTH.T
    matrices = [_SMOOTH @ crop_matrix(start) for start in _CROPS]
    cut: list[Any] = [rows @ light @ columns.T - mine for rows, columns in product(matrices, matrices)]
    return [_within(of_light, color, CROPPED) for of_light in cut]


def maybe_cropped(a: Thumbnails, b: Thumbnails) -> NDArray[np.bool_]:
    """[M]: whether `cropped_differences` is worth its while."""
    rows = _SMOOTH @ crop_matrix(0.5)
    light = rows @ _light(a) @ rows.T - _SMOOTH @ _light(b) @ _SMOOTH.T
    maybe: NDArray[np.bool_] = (light * light).mean((1, 2)) <= MAYBE_CROPPED**2
    return maybe


def coarse(light: NDArray[np.uint8]) -> NDArray[np.int16]:
    """light [N, 16, 16] -> [N, 4, 4]: means, rounded down."""
    sums = light.reshape(-1, 4, LIGHT // 4, 4, LIGHT // 4).sum((2, 4), dtype=np.int16)
    means: NDArray[np.int16] = sums // (LIGHT // 4) ** 2
    return means


def _within(light: Floats, color: Floats, limits: CopyLimits) -> Difference:
    rms = np.sqrt((light * light).mean((1, 2)))
    of_color = np.sqrt((color * color).mean((1, 2, 3)))
    largest = np.abs(light).max((1, 2))
    return Difference(rms, (rms <= limits.light) & (of_color <= limits.color) & (largest <= limits.part))


def _light(marks: Thumbnails) -> Floats:
    return marks[:, : LIGHT * LIGHT].reshape(-1, LIGHT, LIGHT).astype(np.float32)


def _color(marks: Thumbnails) -> Floats:
    return marks[:, LIGHT * LIGHT :].reshape(-1, COLOR, COLOR, 2).astype(np.float32)


def _smoothing() -> Floats:
    """[16, 16]: each part with a quarter of both its neighbors."""
    inner = np.eye(LIGHT + 2, dtype=np.float32)
    smooth: Floats = 0.5 * inner[1:-1] + 0.25 * (inner[:-2] + inner[2:])
    smooth[:, 1] += smooth[:, 0]  # beyond the edges the picture goes on as it ends
    smooth[:, -2] += smooth[:, -1]
    return smooth[:, 1:-1]


_SMOOTH = _smoothing()
