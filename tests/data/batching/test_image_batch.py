"""Which rank computes which picture of a packed sequence, and where its patches lie."""

import math

import pytest
import torch

from editcaption_mega.data.batching.image_batch import assign_images, patch_positions
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


@pytest.mark.parametrize("ranks", [1, 2, 4, 8])
def test_images_are_balanced_by_patches(ranks):
    generator = torch.Generator().manual_seed(ranks)
    sides = torch.randint(1, 20, (40, 2), generator=generator).tolist()
    grids = [(1, 2 * a, 2 * b) for a, b in sides]
    shares = assign_images(grids, ranks)
    assert sorted(i for share in shares for i in share) == list(range(40))
    loads = [sum(math.prod(grids[i]) for i in share) for share in shares]
    assert max(loads) - min(loads) <= max(math.prod(grid) for grid in grids)


def test_every_image_token_finds_its_rank():
    samples = tiny.samples(3)
    parts = [tiny.row(samples, 200, ranks=2, rank=rank).images for rank in range(2)]
    longest = parts[0].tokens_per_rank
    whole = tiny.row(samples, 200).images
    # Patches come back in the order of the row when both shares are put together as the model does.
    flat = torch.zeros(2 * longest, 4, 96)
    for rank, part in enumerate(parts):
        tokens = part.pixel_values.view(-1, 4, 96)
        flat[rank * longest : rank * longest + len(tokens)] = tokens
    assert torch.equal(flat[parts[0].gather_index].flatten(0, 1), whole.pixel_values)
    assert torch.equal(parts[0].gather_index, parts[1].gather_index)


def test_a_row_without_pictures_gets_a_dummy_image():
    row = tiny.row(tiny.samples(1, text_only=(0,)), 40)
    assert row.images.is_dummy and len(row.images.gather_index) == 0 and row.images.pixel_values.abs().sum() == 0
