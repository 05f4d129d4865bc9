"""The pictures of a packed sequence for the vision tower: which rank computes which, and where each patch lies.

Positions and interpolation are those of transformers' Qwen3VLVisionModel. All on the host.
"""

import heapq
import math
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


def assign_images(grids: Sequence[Grid], num_ranks: int) -> list[list[int]]:
    """Which rank computes which pictures: the largest first, each to the rank with the fewest patches so far."""
    load = [(0, rank) for rank in range(num_ranks)]
    assigned: list[list[int]] = [[] for _ in range(num_ranks)]
    for i in sorted(range(len(grids)), key=lambda i: (-math.prod(grids[i]), i)):
        patches, rank = heapq.heappop(load)
        assigned[rank].append(i)
        heapq.heappush(load, (patches + math.prod(grids[i]), rank))
    return [sorted(share) for share in assigned]


def build_image_batch(
    images: Sequence[UnreadImage],
    settings: ImageSettings,
    *,
    num_grid_per_side: int,
    num_ranks: int = 1,
    rank: int = 0,
) -> ImageBatch:
    """Read this rank's share of a sequence's pictures, and no others."""
    shares = assign_images([image.grid for image in images], num_ranks)
    tokens = [grid_tokens(image.grid, settings.merge_size) for image in images]
    longest = max(1, *(sum(tokens[i] for i in share) for share in shares))
    starts = [0] * len(images)
    for owner, share in enumerate(shares):
        start = owner * longest
        for i in share:
            starts[i] = start
            start += tokens[i]
    gather_index = [torch.arange(start, start + count) for start, count in zip(starts, tokens, strict=True)]
    grids = [images[i].grid for i in shares[rank]]
    pixels = [images[i].load() for i in shares[rank]]
    is_dummy = not grids
    if is_dummy:
        side = settings.merge_size
        grids = [(1, side, side)]
        pixels = [torch.zeros(side * side, 3 * settings.temporal_patch_size * settings.patch_size**2)]
    positions = [patch_positions(grid, settings.merge_size, num_grid_per_side) for grid in grids]
    bounds = [0]
    for frames, height, width in grids:
        bounds.extend(bounds[-1] + height * width * (frame + 1) for frame in range(frames))
    return ImageBatch(
        pixel_values=torch.cat(pixels),
        position_ids=torch.cat([part[0] for part in positions]),
        interpolation_index=torch.cat([part[1] for part in positions]),
        interpolation_weight=torch.cat([part[2] for part in positions]),
        bounds=tuple(bounds),
        cu_seqlens=torch.tensor(bounds, dtype=torch.int32),
        gather_index=torch.cat(gather_index) if gather_index else torch.zeros(0, dtype=torch.long),
        tokens_per_rank=longest,
        num_ranks=num_ranks,
        is_dummy=is_dummy,
    )
