"""The pictures of a packed sequence for the vision tower: which rank computes which patches, and where each lies.

Positions and interpolation are those of transformers' Qwen3VLVisionModel. All on the host.
"""

import heapq
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import NamedTuple

import torch
from torch import Tensor

from editcaption_mega.data.images.patches import Grid, ImageSettings, grid_tokens

from .batch import ImageBatch
from .sample import UnreadImage

# Of an even part: how long the fullest rank's may be, of whole pictures. What attention then need not exchange between
# ranks takes an eighth of the tower's time (32B and 235B, H100, planned).
_LONGEST = 1 + 1 / 16


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


def whole_pictures(tokens: Sequence[int], num_ranks: int) -> list[list[int]] | None:
    """Which rank computes which pictures, of so many tokens each: the largest first, each by the rank with the fewest
    tokens so far. None where the fullest rank would have more than a sixteenth above an even part."""
    load = [(0, rank) for rank in range(num_ranks)]
    shares: list[list[int]] = [[] for _ in range(num_ranks)]
    for i in sorted(range(len(tokens)), key=lambda i: (-tokens[i], i)):
        before, rank = heapq.heappop(load)
        shares[rank].append(i)
        heapq.heappush(load, (before + tokens[i], rank))
    if max(load)[0] * num_ranks > sum(tokens) * _LONGEST:
        return None
    return [sorted(share) for share in shares]


class _Division(NamedTuple):
    """What of a sequence's pictures is this rank's. Of the rest see `ImageBatch`."""

    own: list[tuple[int, slice]]  # pictures that have patches in its part, and which of theirs
    patches: int  # of each rank's part
    bounds: list[int]
    places: tuple[slice, ...]
    whole: bool


def _whole(grids: Sequence[Grid], tokens: Sequence[int], shares: list[list[int]], rank: int, merge: int) -> _Division:
    longest = max(1, *(sum(tokens[i] for i in share) for share in shares))
    places = [slice(0)] * len(tokens)
    for owner, share in enumerate(shares):
        start = owner * longest
        for i in share:
            places[i] = slice(start, start := start + tokens[i])
    own, patches = shares[rank], longest * merge**2
    bounds = _bounds([grids[i] for i in own], patches)
    return _Division([(i, slice(None)) for i in own], patches, bounds, _joined(places), True)


def _even(grids: Sequence[Grid], tokens: Sequence[int], num_ranks: int, rank: int, merge: int) -> _Division:
    patches = -(-sum(tokens) // num_ranks) * merge**2
    part, own, end = range(rank * patches, (rank + 1) * patches), [], 0
    for i, count in enumerate(tokens):
        start, end = end, end + count * merge**2
        inside = slice(max(part.start - start, 0), min(part.stop, end) - start)
        if inside.start < inside.stop:
            own.append((i, inside))
    return _Division(own, patches, _bounds(grids, patches * num_ranks), (slice(0, sum(tokens)),), False)


def _bounds(grids: Iterable[Grid], patches: int) -> list[int]:
    """Of the frames of pictures, and of what fills up so many patches."""
    bounds = [0]
    for frames, height, width in grids:
        bounds += [bounds[-1] + height * width * (frame + 1) for frame in range(frames)]
    return bounds if bounds[-1] == patches else [*bounds, patches]


def _joined(places: Sequence[slice]) -> tuple[slice, ...]:
    """Slices of which one begins where the one before ends are one."""
    joined: list[slice] = []
    for place in places:
        if joined and joined[-1].stop == place.start:
            joined[-1] = slice(joined[-1].start, place.stop)
        else:
            joined.append(place)
    return tuple(joined)


def build_image_batch(
    images: Sequence[UnreadImage],
    settings: ImageSettings,
    *,
    num_grid_per_side: int,
    num_ranks: int = 1,
    rank: int = 0,
) -> ImageBatch:
    """This rank's part of a sequence's pictures: some of them whole, where that divides them about evenly among the
    ranks; else all of their tokens in order, divided evenly.

    Only the pictures that have patches in the part are read. Zeros fill it up, behind the last picture; they are a
    segment of their own, which no token of the language model comes from. A sequence without pictures has nothing else,
    so that every rank has work and every weight a gradient."""
    grids, merge = [image.grid for image in images], settings.merge_size
    tokens = [grid_tokens(grid, merge) for grid in grids]
    shares = whole_pictures(tokens, num_ranks)
    if shares is not None:
        division = _whole(grids, tokens, shares, rank, merge)
    else:
        division = _even(grids, tokens, num_ranks, rank, merge)
    pieces: list[tuple[Tensor, Tensor, Tensor, Tensor]] = []
    for i, inside in division.own:
        position, index, weight = patch_positions(grids[i], merge, num_grid_per_side)
        pieces.append((images[i].load()[inside], position[inside], index[inside], weight[inside]))
    missing = division.patches - sum(len(pixels) for pixels, *_ in pieces)
    if missing:
        pieces.append(_nothing(missing, settings, pieces[0][0].device if pieces else torch.device("cpu")))
    joined = [torch.cat(parts) for parts in zip(*pieces, strict=True)]
    return ImageBatch(
        pixels=joined[0],
        normalization=settings.normalization,
        position_ids=joined[1],
        interpolation_index=joined[2],
        interpolation_weight=joined[3],
        bounds=tuple(division.bounds),
        cu_seqlens=torch.tensor(division.bounds, dtype=torch.int32),
        places=division.places,
        num_tokens=sum(tokens),
        num_ranks=num_ranks,
        whole_pictures=division.whole,
    )


def _nothing(patches: int, settings: ImageSettings, device: torch.device) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Zeros where there is no picture: pixels (on the device of the others), positions, interpolation indices and
    weights."""
    pixels = torch.zeros(patches, settings.patch_bytes, dtype=torch.uint8, device=device)
    index = torch.zeros(patches, 4, dtype=torch.long)
    return pixels, torch.zeros(patches, 2, dtype=torch.long), index, torch.zeros(patches, 4)
