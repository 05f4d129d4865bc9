"""How the two pictures of a pair differ, as numbers: no model, a few hundredths of a second per pair."""

from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from editcaption_mega.data.images.decode import decode_image

SIDE = 512  # pixels of the longer side at which pictures are compared: their noise is averaged away
TOLERANCE = 24  # of 255, in any channel: more is a changed pixel
CELLS = 32  # of the grid in which changed pixels are gathered into boxes, along the longer side
FEWEST_CHANGED = 0.05  # share of a cell's pixels for the cell to count as changed
MOST_BOXES = 8
_LUMA = np.array([0.299, 0.587, 0.114], np.float32)

Pixels = NDArray[np.uint8]  # [height, width, 3]
Box = list[float]  # left, top, right, bottom, as shares of width and height


def measure_pictures(source: bytes, target: bytes) -> dict[str, Any]:
    """The columns of one pair.

    identical       the same pixels, whatever the files' format
    same_size       the same width and height
    aspect          width / height of the target, over that of the source: 1 is the same shape
    changed_share   share of pixels of which a channel changed by more than TOLERANCE, 0 .. 1
    boxes           where those are: up to MOST_BOXES boxes [left, top, right, bottom] as shares, the largest first
    largest_box     share of the picture that the largest box covers (table 5 of the paper asks whether it is over 0.1)
    mean_change     mean absolute difference of all channels, 0 .. 1
    brightness      mean luma of the target minus that of the source, -1 .. 1
    ssim            structural similarity of the luma, 1 is equal

    A target of another size is resized to the source's for all that compares pixels, and both are reduced to SIDE.
    Raises ImageError."""
    from editcaption_mega.evaluation.execution.measures import ssim

    before, after = decode_image(source, where="the source"), decode_image(target, where="the target")
    same_size = before.size == after.size
    identical = same_size and before.tobytes() == after.tobytes()
    shape = _reduced_size(before.size)
    a, b = (np.asarray(picture.resize(shape, Image.Resampling.BILINEAR)) for picture in (before, after))
    difference = np.abs(a.astype(np.int16) - b.astype(np.int16))
    changed = difference.max(axis=2) > TOLERANCE
    boxes = changed_boxes(changed)
    return {
        "identical": identical,
        "same_size": same_size,
        "aspect": round((after.width / after.height) / (before.width / before.height), 4),
        "changed_share": round(float(changed.mean()), 6),
        "boxes": boxes,
        "largest_box": round(_area(boxes[0]), 4) if boxes else 0.0,
        "mean_change": round(float(difference.mean()) / 255, 6),
        "brightness": round(float(((b - a.astype(np.float32)) @ _LUMA).mean()) / 255, 5),
        "ssim": round(ssim(_tensor(a), _tensor(b)), 6),
    }


def changed_boxes(changed: NDArray[np.bool_]) -> list[Box]:
    """changed: [height, width] -> boxes around its connected regions, the largest area first, at most MOST_BOXES.

    Regions are those of a grid of CELLS cells along the longer side; cells that touch at a corner belong together."""
    height, width = changed.shape
    cell = max(1, -(-max(height, width) // CELLS))
    rows, columns = -(-height // cell), -(-width // cell)
    padded = np.zeros((rows * cell, columns * cell), np.float32)
    padded[:height, :width] = changed
    grid = padded.reshape(rows, cell, columns, cell).mean((1, 3)) >= FEWEST_CHANGED
    boxes = []
    for top, left, bottom, right in _regions(grid):
        ends = min(right * cell, width) / width, min(bottom * cell, height) / height
        boxes.append([round(value, 4) for value in (left * cell / width, top * cell / height, *ends)])
    return sorted(boxes, key=_area, reverse=True)[:MOST_BOXES]


def _regions(grid: NDArray[np.bool_]) -> list[tuple[int, int, int, int]]:
    """(top, left, bottom, right), ends excluded, of each connected region of a small grid."""
    left_over = {(int(y), int(x)) for y, x in zip(*np.nonzero(grid), strict=True)}
    regions = []
    while left_over:
        border = [left_over.pop()]
        cells = list(border)
        while border:
            y, x = border.pop()
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left_over
            left_over -= near
            border += near
            cells += near
        ys, xs = zip(*cells, strict=True)
        regions.append((min(ys), min(xs), max(ys) + 1, max(xs) + 1))
    return regions


def _area(box: Box) -> float:
    return (box[2] - box[0]) * (box[3] - box[1])


def _reduced_size(size: tuple[int, int]) -> tuple[int, int]:
    factor = min(1.0, SIDE / max(size))
    return max(1, round(size[0] * factor)), max(1, round(size[1] * factor))


def _tensor(pixels: Pixels) -> Any:
    """[3, height, width] fp32 in 0 .. 1."""
    import torch

    return torch.from_numpy(pixels.astype(np.float32).transpose(2, 0, 1) / 255)
