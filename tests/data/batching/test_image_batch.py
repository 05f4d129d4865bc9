"""Which rank computes which patches of a packed sequence's pictures, and where they lie."""

import math
from dataclasses import replace
from itertools import pairwise

import pytest
import torch

from editcaption_mega.data.batching.image_batch import patch_positions, whole_pictures
from tests.helpers import tiny


@pytest.mark.parametrize("grid", [(1, 4, 6), (1, 2, 2), (1, 8, 4), (2, 6, 10), (1, 30, 22)])
def test_vision_positions_equal_transformers(grid):
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

    thw = torch.tensor([grid])
    place, index, weight = patch_positions(grid, 2, 6)
    assert torch.equal(place, get_vision_position_ids(thw, 2))
    wanted_index, wanted_weight = get_vision_interpolation_indices_and_weights(
        thw, num_grid_per_side=6, mode="bilinear", align_corners=True, spatial_merge_size=2
    )
    assert torch.equal(index, wanted_index)
    assert (weight - wanted_weight).abs().max() <= 1e-6


def shared(samples, ranks):
    """The parts of a row's pictures, and all of them on one rank."""
    parts = [tiny.row(samples, 400, ranks=ranks, rank=rank).images for rank in range(ranks)]
    return parts, tiny.row(samples, 400).images


def check_parts(parts, whole):
    """Parts are equally long, and hold at their places what the row has, and zeros beside it."""
    assert len({len(part.pixels) for part in parts}) == 1 and len(parts[0].pixels) % 4 == 0
    taken = torch.cat([torch.arange(4 * place.start, 4 * place.stop) for place in parts[0].places])
    for name in ("pixels", "position_ids", "interpolation_index", "interpolation_weight"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined[taken], getattr(whole, name)), name
        joined[taken] = 0
        assert not joined.any(), name
    for part in parts:
        assert part.num_tokens == whole.num_tokens == len(whole.pixels) // 4
        assert part.places == parts[0].places and part.cu_seqlens.tolist() == list(part.bounds)


@pytest.mark.parametrize("samples, ranks", [(1, 2), (1, 3), (3, 4), (3, 8), (4, 8)])
def test_ranks_share_the_patches_of_a_row_evenly_and_in_order(samples, ranks):
    parts, whole = shared(tiny.samples(samples), ranks)
    check_parts(parts, whole)
    patches = len(parts[0].pixels)
    assert ranks * patches - len(whole.pixels) < 4 * ranks, "less than a token of nothing on each rank"
    for part in parts:
        assert not part.whole_pictures and part.places == (slice(0, whole.num_tokens),)
        assert part.bounds[: len(whole.bounds)] == whole.bounds and part.bounds[-1] == ranks * patches


@pytest.mark.parametrize("samples, ranks", [(1, 1), (3, 2), (4, 2), (3, 3), (8, 4)])
def test_ranks_have_whole_pictures_where_that_is_about_even(samples, ranks):
    chosen = tiny.samples(samples)
    parts, whole = shared(chosen, ranks)
    check_parts(parts, whole)
    sizes = []
    for part in parts:
        assert part.whole_pictures and part.bounds[-1] == len(part.pixels)
        assert len(part.pixels) * ranks <= len(whole.pixels) * 17 / 16
        sizes += [last - first for first, last in pairwise(part.bounds) if part.pixels[first:last].any()]
    assert sorted(sizes) == sorted(math.prod(grid) for sample in chosen for grid in sample.grids)


def test_pictures_of_one_size_stay_in_their_order():
    assert whole_pictures([5, 5, 5, 5], 4) == [[0], [1], [2], [3]]
    assert whole_pictures([8, 8, 7, 7], 2) == [[0, 2], [1, 3]]
    assert whole_pictures([16, 16, 18], 3) is None, "18 is more than a sixteenth above 50 / 3"
    assert whole_pictures([], 2) == [[], []]


def test_only_pictures_of_the_own_part_are_read():
    read = []

    class Watched(tiny.ImageInMemory):
        def load(self):
            read.append(self.grid)
            return super().load()

    samples = [
        replace(sample, images=tuple(Watched(image.grid, image.patches) for image in sample.images))
        for sample in tiny.samples(4)
    ]
    assert not tiny.row(samples, 200, ranks=8, rank=0).images.whole_pictures
    assert read == [samples[0].grids[0]]
    read.clear()
    assert tiny.row(samples, 200, ranks=2, rank=0).images.whole_pictures
    pictures = [grid for sample in samples for grid in sample.grids]
    assert 0 < len(read) < len(pictures) and set(read) < set(pictures)


def test_a_row_without_pictures_has_a_token_of_nothing_on_each_rank():
    for rank in range(2):
        images = tiny.row(tiny.samples(1, text_only=(0,)), 40, ranks=2, rank=rank).images
        assert images.num_tokens == 0 and images.bounds == (0, 4)
        assert images.pixels.shape == (4, 48) and images.pixels.sum() == 0
