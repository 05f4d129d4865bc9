"""The size to which Qwen3-VL resizes a picture, as numbers alone: who only asks for it need not wait for PyTorch."""

import math

# Patches of every released Qwen3-VL.
QWEN3_VL = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}


def resized_size(height: int, width: int, *, factor: int, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(height, width) after resizing: multiples of `factor`, between the pixel limits, nearly the old aspect ratio.

    Raises ValueError for a picture that is more than 200 times longer than wide."""
    if max(height, width) > 200 * min(height, width):
        raise ValueError(f"a picture of {width} x {height} pixels is more than 200 times longer than wide")
    rows, columns = round(height / factor) * factor, round(width / factor) * factor
    if rows * columns > max_pixels:
        scale = math.sqrt(height * width / max_pixels)
        rows = max(factor, math.floor(height / scale / factor) * factor)
        columns = max(factor, math.floor(width / scale / factor) * factor)
    elif rows * columns < min_pixels:
        scale = math.sqrt(min_pixels / (height * width))
        rows, columns = math.ceil(height * scale / factor) * factor, math.ceil(width * scale / factor) * factor
    return rows, columns


def limited_size(width: int, height: int, *, min_pixels: int, max_pixels: int) -> tuple[int, int]:
    """(width, height) of what `patches.limit_picture` makes of a picture of this size. Raises as it does."""
    factor = QWEN3_VL["patch_size"] * QWEN3_VL["merge_size"]
    rows, columns = resized_size(height, width, factor=factor, min_pixels=min_pixels, max_pixels=max_pixels)
    return columns, rows
