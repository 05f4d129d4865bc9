"""Which rank computes which patches of a packed sequence's pictures, and where they lie."""

from dataclasses import replace

import pytest
import torch

from editcaption_mega.data.batching.image_batch import patch_positions
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


@pytest.mark.parametrize("ranks", [1, 2, 3, 4, 8])
def test_ranks_share_the_patches_of_a_row_evenly_and_in_order(ranks):
    samples = tiny.samples(3)
    parts = [tiny.row(samples, 200, ranks=ranks, rank=rank).images for rank in range(ranks)]
    whole = tiny.row(samples, 200).images
    patches = len(whole.pixels)
    assert len({len(part.pixels) for part in parts}) == 1 and len(parts[0].pixels) % 4 == 0
    assert ranks * len(parts[0].pixels) - patches < 4 * ranks, "less than a token of nothing on each rank"
    for name in ("pixels", "position_ids", "interpolation_index", "interpolation_weight"):
        joined = torch.cat([getattr(part, name) for part in parts])
        assert torch.equal(joined[:patches], getattr(whole, name)) and not joined[patches:].any(), name
    for part in parts:
        assert part.num_tokens == whole.num_tokens == patches // 4
        assert part.bounds[: len(whole.bounds)] == whole.bounds and part.bounds[-1] == sum(
            len(other.pixels) for other in parts
        )
        assert part.cu_seqlens.tolist() == list(part.bounds)


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
    tiny.row(samples, 200, ranks=8, rank=0)
    assert read == [samples[0].grids[0]]


def test_a_row_without_pictures_has_a_token_of_nothing_on_each_rank():
    for rank in range(2):
        images = tiny.row(tiny.samples(1, text_only=(0,)), 40, ranks=2, rank=rank).images
        assert images.num_tokens == 0 and images.bounds == (0, 8)
        assert images.pixels.shape == (4, 48) and images.pixels.sum() == 0
