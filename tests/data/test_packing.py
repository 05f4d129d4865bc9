import math

import pytest
import tiny
import torch

from editcaption_mega.data.packing import plan_rows, sample_positions
from editcaption_mega.data.vision import _positions, assign_images


@pytest.mark.parametrize("multiple", [1, 2, 4, 6])
@pytest.mark.parametrize("seed", range(5))
def test_plan_holds_each_sample_once_within_the_row(multiple, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 120, (24,), generator=generator).tolist()
    rows = plan_rows(lengths, 256, multiple)
    assert sorted(i for row in rows for i in row) == list(range(24))
    assert len(rows) % multiple == 0 and all(rows)
    assert max(sum(lengths[i] for i in row) for row in rows) <= 256
    assert rows == plan_rows(lengths, 256, multiple)


def test_rows_come_out_level():
    lengths = [70 + i % 7 for i in range(64)]
    sums = [sum(lengths[i] for i in row) for row in plan_rows(lengths, 2048, 2)]
    assert max(sums) - min(sums) <= max(lengths)


def test_without_packing_each_row_is_one_sample():
    assert plan_rows([5, 6, 7, 8], 100, 2, packing=False) == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match="multiple of 3"):
        plan_rows([5, 6, 7, 8], 100, 3, packing=False)


def test_too_few_samples_for_the_ranks():
    with pytest.raises(ValueError, match="raise training.global_batch_size to a multiple of 8"):
        plan_rows([5, 6], 100, 8)


def test_samples_that_cannot_be_divided_into_rows():
    with pytest.raises(ValueError, match="raise data.sequence_length"):
        plan_rows([60, 60, 60], 100, 2)


def test_positions_equal_transformers():
    model = tiny.hf_model(experts=False, layers=2)
    for sample in tiny.samples(4):
        inputs = tiny.hf_inputs(sample)
        expected, _ = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )
        mine = sample_positions(sample.prompt_ids, sample.grids, (len(sample.answer_ids),), tiny.IMAGE_TOKEN, 2)
        assert torch.equal(mine, expected[:, 0])


@pytest.mark.parametrize("grid", [(1, 4, 6), (1, 2, 2), (1, 8, 4), (2, 6, 10), (1, 30, 22)])
def test_vision_positions_equal_transformers(grid):
    from transformers.vision_utils import get_vision_interpolation_indices_and_weights, get_vision_position_ids

    thw = torch.tensor([grid])
    place, index, weight = _positions(grid, 2, 6)
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


def test_row_fields_agree():
    samples = tiny.samples(3)
    total = sum(sample.num_tokens for sample in samples)
    row = tiny.row(samples, total + 11)
    assert row.bounds[-1] == total + 11 and row.num_tokens == total
    assert row.padding_mask.sum() == 11
    assert torch.equal(row.input_ids[0][row.target_rows + 1], row.targets)
    assert row.targets.tolist() == [token for sample in samples for token in sample.answer_ids]
    assert (row.input_ids[0][row.visual_positions] == tiny.IMAGE_TOKEN).all()
    assert len(row.images.order) == len(row.visual_positions)


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
    assert torch.equal(flat[parts[0].order].flatten(0, 1), whole.pixel_values)
    assert torch.equal(parts[0].order, parts[1].order)


def test_a_row_without_pictures_gets_a_dummy_image():
    row = tiny.row(tiny.samples(1, text_only=(0,)), 40)
    assert row.images.is_dummy and len(row.images.order) == 0 and row.images.pixel_values.abs().sum() == 0
