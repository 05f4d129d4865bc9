"""What the limits of picture sizes do to the pictures of a set, and what their tokens would be under others."""

import dataclasses

import numpy as np

from editcaption_mega.data.images.patches import ImageSettings, grid_tokens, image_grid

MOST_PAIRS = 20_000  # that are looked at, evenly over the set


def picture_lines(pixels: np.ndarray, settings: ImageSettings) -> list[str]:
    """Lines for people. pixels [N, 2, 2]: width and height of source and target of each pair, as the index has them."""
    if not len(pixels):
        return []
    stride = -(-len(pixels) // MOST_PAIRS)
    sizes, counts = np.unique(pixels[::stride].reshape(-1, 2), axis=0, return_counts=True)
    tokens = _tokens(sizes, settings)
    as_they_are = _tokens(sizes, dataclasses.replace(settings, min_pixels=1, max_pixels=1 << 60))
    shares = [
        f"{np.average(changed, weights=counts):.1%} are {what}"
        for changed, what in ((tokens < as_they_are, "reduced"), (tokens > as_they_are, "enlarged"))
    ]
    of_limit = settings.factor**2
    mean = float(np.average(tokens, weights=counts))
    costs = []
    for limit in (settings.max_pixels // 2, settings.max_pixels * 2):
        other = dataclasses.replace(settings, max_pixels=max(limit, settings.min_pixels))
        cost = float(np.average(_tokens(sizes, other), weights=counts))
        costs.append(f"{other.max_pixels:,} would take {cost:,.0f} ({cost / mean - 1:+.0%})")
    looked_at = "" if stride == 1 else f" (of 1 pair in {stride:,})"
    return [
        f"pictures: resized to data.min_pixels={settings.min_pixels:,} to data.max_pixels={settings.max_pixels:,}, a "
        f"token for {settings.factor} x {settings.factor}, so at most {settings.max_pixels // of_limit:,} tokens; here "
        f"{mean:,.0f} on average, {int(tokens.max()):,} at most; {' and '.join(shares)}{looked_at}",
        f"data.max_pixels={costs[0]}, {costs[1]} tokens a picture on average",
    ]


def _tokens(sizes: np.ndarray, settings: ImageSettings) -> np.ndarray:
    """Of pictures of these sizes [n, 2] -> [n] int64."""
    grids = (image_grid(width, height, settings) for width, height in sizes.tolist())
    return np.array([grid_tokens(grid, settings.merge_size) for grid in grids], np.int64)
