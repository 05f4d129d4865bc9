from dataclasses import replace

import pytest
import torch

from editcaption_mega.data.batching.packing import plan_sequences, sample_positions
from tests.helpers import tiny


@pytest.mark.parametrize("multiple", [1, 2, 4, 6])
@pytest.mark.parametrize("seed", range(5))
def test_plan_holds_each_sample_once_within_the_row(multiple, seed):
    generator = torch.Generator().manual_seed(seed)
    lengths = torch.randint(5, 120, (24,), generator=generator).tolist()
    rows = plan_sequences(lengths, 256, multiple)
    assert sorted(i for row in rows for i in row) == list(range(24))
    assert len(rows) % multiple == 0 and all(rows)
    assert max(sum(lengths[i] for i in row) for row in rows) <= 256
    assert rows == plan_sequences(lengths, 256, multiple)


def test_rows_come_out_level():
    lengths = [70 + i % 7 for i in range(64)]
    sums = [sum(lengths[i] for i in row) for row in plan_sequences(lengths, 2048, 2)]
    assert max(sums) - min(sums) <= max(lengths)


def test_without_packing_each_row_is_one_sample():
    assert plan_sequences([5, 6, 7, 8], 100, 2, packing=False) == [[0], [1], [2], [3]]
    with pytest.raises(ValueError, match="multiple of 3"):
        plan_sequences([5, 6, 7, 8], 100, 3, packing=False)


def test_too_few_samples_for_the_ranks():
    with pytest.raises(ValueError, match="raise training.global_batch_size to a multiple of 8"):
        plan_sequences([5, 6], 100, 8)


def test_samples_that_cannot_be_divided_into_rows():
    with pytest.raises(ValueError, match="raise data.sequence_length"):
        plan_sequences([60, 60, 60], 100, 2)


def test_positions_equal_transformers():
    model = tiny.hf_model(experts=False, layers=2)
    for sample in tiny.samples(4):
        inputs = tiny.hf_inputs(sample)
        expected, _ = model.model.get_rope_index(
            inputs["input_ids"], inputs["mm_token_type_ids"], image_grid_thw=inputs["image_grid_thw"]
        )
        mine = sample_positions(sample.prompt_ids, sample.grids, (len(sample.answer_ids),), tiny.IMAGE_TOKEN, 2)
        assert torch.equal(mine, expected[:, 0])


def test_row_fields_agree():
    samples = tiny.samples(3)
    total = sum(sample.num_tokens for sample in samples)
    row = tiny.row(samples, total + 11)
    assert row.bounds[-1] == total + 11 and row.num_tokens == total
    assert row.padding_mask.sum() == 11
    assert torch.equal(row.input_ids[0][row.target_positions + 1], row.targets)
    assert row.targets.tolist() == [token for sample in samples for token in sample.answer_ids]
    assert (row.input_ids[0][row.visual_positions] == tiny.IMAGE_TOKEN).all()
    assert row.images.num_tokens == len(row.visual_positions)


def expected_positions(pair, answer):
    """Positions of the pair's prompt with one of its answers, as one plain sample has them."""
    return sample_positions(pair.prompt_ids, pair.grids, (len(answer),), tiny.IMAGE_TOKEN, 2)


def test_a_pair_is_one_prompt_and_two_answers():
    pairs = tiny.pairs(4, text_only=(2,))
    total = sum(pair.num_tokens for pair in pairs)
    row = tiny.row(pairs, total + 9)
    assert row.num_tokens == total == sum(len(p.prompt_ids) + len(p.answer_ids) for p in pairs)
    assert row.sample_ids == ("s0", "s1", "s2", "s3")
    assert row.targets.tolist() == [token for pair in pairs for answer in pair.answers for token in answer]
    lengths = [len(answer) for pair in pairs for answer in pair.answers]
    assert row.response_bounds == tuple(sum(lengths[:i]) for i in range(9)) and len(row.loss_weights) == sum(lengths)
    assert len({len(pair.prompt_ids) for pair in pairs}) == 4 and len(set(lengths)) >= 3, "lengths must differ"
    start, segment, key_start, target_positions = 0, 0, 0, []
    for pair in pairs:
        prompt, (chosen, rejected) = len(pair.prompt_ids), map(len, pair.answers)
        end = start + prompt + chosen
        assert row.input_ids[0, start : end + rejected].tolist() == [*pair.prompt_ids, *pair.answer_ids]
        assert row.bounds[segment : segment + 3] == (start, end, end + rejected)
        # Keys: [prompt, chosen], then [prompt, rejected].
        assert row.key_bounds[segment : segment + 3] == tuple(
            key_start + n for n in (0, prompt + chosen, 2 * prompt + chosen + rejected)
        )
        keys = [*range(start, end), *range(start, start + prompt), *range(end, end + rejected)]
        assert row.key_index[key_start : key_start + len(keys)].tolist() == keys
        # Both answers stand right behind the prompt.
        positions = row.position_ids[:, 0, start : end + rejected]
        assert torch.equal(positions[:, : prompt + chosen], expected_positions(pair, pair.answers[0]))
        second = torch.cat((positions[:, :prompt], positions[:, prompt + chosen :]), 1)
        assert torch.equal(second, expected_positions(pair, pair.answers[1]))
        # The last token of the prompt predicts the first token of both.
        last = start + prompt - 1
        target_positions += [*range(last, end - 1), last, *range(end, end + rejected - 1)]
        start, segment, key_start = end + rejected, segment + 2, key_start + len(keys)
    assert row.target_positions.tolist() == list(row.target_positions_host) == target_positions
    assert row.bounds[segment:] == (total, total + 9) and row.padding_mask.sum() == 9
    assert row.key_index[key_start:].tolist() == list(range(total, total + 9)) and row.key_bounds[-1] == key_start + 9
    assert row.images.num_tokens == len(row.visual_positions), "pictures are encoded once"


def test_without_sharing_a_pair_is_two_plain_samples():
    pairs = tiny.pairs(3)
    apart = tiny.unshared(pairs)
    total = sum(pair.num_tokens for pair in apart)
    assert total == sum(2 * len(pair.prompt_ids) + len(pair.answer_ids) for pair in pairs)
    row, shared = tiny.row(apart, total), tiny.row(pairs, total)
    single = [replace(pair, id=f"{i}", answers=(answer,)) for i, pair in enumerate(pairs) for answer in pair.answers]
    plain = tiny.row(single, total)
    for name in ("input_ids", "position_ids", "visual_positions", "target_positions"):
        assert torch.equal(getattr(row, name), getattr(plain, name)), name
    assert row.bounds == plain.bounds == row.key_bounds and row.key_index is None
    assert torch.equal(row.images.pixels, plain.images.pixels)
    # What an objective sees is the same either way.
    assert torch.equal(row.targets, shared.targets) and row.response_bounds == shared.response_bounds
    assert row.sample_ids == shared.sample_ids == ("s0", "s1", "s2")


def test_plain_rows_have_no_key_index():
    row = tiny.row(tiny.samples(3), 200)
    assert row.key_index is None and row.key_bounds == row.bounds
