"""The pictures of a packed sequence for the vision tower: which rank computes which patches, and where each lies.

Positions and interpolation are those of transformers' Qwen3VLVisionModel. All on the host.
"""

from collections.abc import Sequence
from functools import lru_cache

import torch
from torch import Tensor

from editcaption_mega.data.images.patches import Grid, ImageSettings, grid_tokens

from .batch import ImageBatch
from .sample import UnreadImage


@lru_cache(maxsize=512)
def patch_positions(grid: Grid, merge_size: int, num_grid_per_side: int) -> tuple[Tensor, Tensor, Tensor]:
    """Row and column [n, 2], interpolation indices [n, 4] and weights [n, 4] of one picture's patches.

    num_grid_per_side: of the square table of learned positions that is interpolated."""
    frames, height, width = grid
    shape = (height // merge_size, merge_size, width // merge_size, merge_size)
    row, column = torch.meshgrid(torch.arange(height), torch.arange(width), indexing="ij")
    row = row.reshape(shape).transpose(1, 2).flatten().repeat(frames)
    column = column.reshape(shape).transpose(1, 2).flatten().repeat(frames)

    def corners(positions: Tensor, size: int) -> tuple[Tensor, Tensor]:
        # Corners of the table are corners of the picture (align_corners=True), for any picture size.
        exact = positions.float() * (num_grid_per_side - 1) / max(size - 1, 1)
        low = exact.floor().long()
        high = (low + 1).clamp(max=num_grid_per_side - 1)
        return torch.stack((low, high), 1), torch.stack((1 - (exact - low), exact - low), 1)

    row_corners, row_weights = corners(row, height)
    column_corners, column_weights = corners(column, width)
    index = (row_corners[:, :, None] * num_grid_per_side + column_corners[:, None, :]).flatten(1)
    weight = (row_weights[:, :, None] * column_weights[:, None, :]).flatten(1)
    return torch.stack((row, column), 1), index, weight


def build_image_batch(
    images: Sequence[UnreadImage],
    settings: ImageSettings,
    *,
    num_grid_per_side: int,
    num_ranks: int = 1,
    rank: int = 0,
) -> ImageBatch:
    """This rank's part of a sequence's pictures: all of their tokens in order, divided evenly among the ranks.

    Only the pictures that have patches in the part are read. Zeros fill it up, behind the last picture; they are a
    segment of their own, which no token of the language model comes from. A sequence without pictures has nothing else,
    so that every rank has work and every weight a gradient."""
    patches_of_token = settings.merge_size**2
    counts = [grid_tokens(image.grid, settings.merge_size) * patches_of_token for image in images]
    total = sum(counts)
    tokens = max(1, -(-total // (patches_of_token * num_ranks)))
    part = range(rank * tokens * patches_of_token, (rank + 1) * tokens * patches_of_token)
    pieces: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    bounds = [0]
    for image, count in zip(images, counts, strict=True):
        start = bounds[-1]
        inside = slice(max(part.start - start, 0), min(part.stop - start, count))
        if inside.start < inside.stop:
            position, index, weight = patch_positions(image.grid, settings.merge_size, num_grid_per_side)
            pieces.append((image.load()[inside], position[inside], index[inside], weight[inside]))
        frames, height, width = image.grid
        bounds.extend(start + height * width * (frame + 1) for frame in range(frames))
    missing = len(part) - sum(len(pixels) for pixels, *_ in pieces)
    if missing:
        pieces.append(_nothing(missing, settings, pieces[0][0].device if pieces else torch.device("cpu")))
    if bounds[-1] < len(part) * num_ranks:
        bounds.append(len(part) * num_ranks)
    joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
    return ImageBatch(
        pixels=joined[0],
        normalization=settings.normalization,
        position_ids=joined[1],
        interpolation_index=joined[2],
        interpolation_weight=joined[3],
        bounds=tuple(bounds),
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        num_tokens=total // patches_of_token,
        num_ranks=num_ranks,
    )


def _nothing(patches: int, settings: ImageSettings, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zeros where there is no picture: pixels (on the device of the others), positions, interpolation indices and
    weights."""
    pixels = torch.zeros(patches, settings.patch_bytes, dtype=torch.uint8, device=device)
    index = torch.zeros(patches, 4, dtype=torch.long)
    return pixels, torch.zeros(patches, 2, dtype=torch.long), index, torch.zeros(patches, 4)
