"""Steps without data: as long, as full and as divided as those of real pairs with the same sizes."""

import dataclasses
import json

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import SampleLengths
from editcaption_mega.data.batching.loader import SequenceReader, StepStream
from editcaption_mega.data.batching.packing import Packer, RankShare
from editcaption_mega.data.images.patches import ImageSettings, grid_tokens, image_grid
from editcaption_mega.data.text.prompt import ChatEncoder, Prompt, load_tokenizer
from editcaption_mega.model import Architecture
from editcaption_mega.model.released import released_architecture
from editcaption_mega.planning.workload import (
    UNIFORM,
    VARIED,
    Workload,
    image_settings,
    picture_grid,
    planned_step,
    samples,
)
from editcaption_mega.settings import DPOSettings, JobSettings, ParallelSettings
from editcaption_mega.training.setup import open_dataset
from tests.helpers import small_job
from tests.helpers.fake_ranks import on_fake_ranks
from tests.helpers.shared_data import shared_path
from tests.helpers.small_pairs import ANSWERS, write_pairs

# Of a packed sequence, what does not depend on where in the prompt the pictures stand, or on the words.
SAME = ("bounds", "key_bounds", "response_bounds", "target_positions_host", "num_tokens")
SAME_OF_IMAGES = ("bounds", "num_tokens", "num_ranks")
RELEASE = released_architecture("Qwen3-VL-2B")


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_job.write_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return write_pairs(tmp_path_factory.mktemp("pairs"), ANSWERS)


def as_settings(kind: type[JobSettings], folder, shards, max_pixels: int, **data) -> JobSettings:
    job = small_job.job(folder, shards, "nowhere", global_batch_size=len(ANSWERS))
    settings = kind(**{field.name: getattr(job, field.name) for field in dataclasses.fields(JobSettings)})
    settings.data.max_pixels = max_pixels
    for name, value in data.items():
        setattr(settings.data, name, value)
    return settings


KINDS = [(JobSettings, "instruction", True), (DPOSettings, "preference", True), (DPOSettings, "preference", False)]


@pytest.mark.parametrize("max_pixels", [1 << 20, 60 * 60])
@pytest.mark.parametrize("kind, answers, shared", KINDS)
def test_steps_are_those_of_real_pairs_of_these_sizes(folder, shards, kind, answers, shared, max_pixels):
    settings = as_settings(kind, folder, shards, max_pixels, shared_prompt=shared)
    architecture, dataset = Architecture.from_folder(folder), open_dataset(settings, answers)
    lengths, problems = dataset.measure(range(len(dataset)), settings.data.sequence_length)
    assert not problems and image_settings(settings, architecture) == dataset.images
    width, height = dataset.shards.meta(0).size("source")
    unlimited = dataclasses.replace(dataset.images, max_pixels=1 << 30)
    workload = Workload(
        picture_tokens=grid_tokens(image_grid(width, height, unlimited), 2),
        prompt_text_tokens=len(dataset.encoder.prompt_ids(0, 0)),
        answer_tokens=tuple(length for row in lengths.answers.tolist() for length in row if length),
    )
    planned = samples(settings, architecture, workload)
    assert SampleLengths.of(planned).table.tolist() == lengths.table.tolist()
    assert [sample.grids for sample in planned] == [dataset.sample(i).grids for i in range(len(planned))]
    tokens = dataset.encoder.image_token_id, dataset.encoder.pad_token_id
    for rank in range(2):
        share = RankShare(data_parallel_size=2, data_parallel_rank=rank, length_multiple=8, num_vision_ranks=2)
        packer = Packer(dataset.images, *tokens, architecture.vision.num_grid_per_side, 512, share=share)
        order = SampleOrder(len(dataset), settings.training.seed)
        (expected,) = StepStream(SequenceReader(dataset, lengths, packer), order, len(dataset)).steps(0, 1)
        step = planned_step(settings, architecture, workload, share)
        for name in ("number", "length", "response_tokens", "num_samples"):
            assert getattr(step, name) == getattr(expected, name), name
        assert len(step.micro_batches) == len(expected.micro_batches)
        for batch, other in zip(step.micro_batches, expected.micro_batches, strict=True):
            assert all(getattr(batch, name) == getattr(other, name) for name in SAME)
            assert all(getattr(batch.images, name) == getattr(other.images, name) for name in SAME_OF_IMAGES)
            assert batch.images.pixels.shape == other.images.pixels.shape
            assert torch.equal(batch.padding_mask, other.padding_mask)
            assert len(batch.visual_positions) == len(other.visual_positions)
            assert (batch.key_index is None) == (other.key_index is None)


def test_a_varied_step_is_divided_over_all_ranks(folder, shards):
    settings = JobSettings(parallel=ParallelSettings(tensor_model_parallel_size=2))
    settings.data.sequence_length, settings.training.global_batch_size = 8192, 40
    settings.data.max_pixels = 1024 * 1024
    planned = samples(settings, RELEASE, VARIED)
    assert planned == samples(settings, RELEASE, VARIED)
    tokens = {grid_tokens(sample.grids[0], 2) for sample in planned}
    assert len(tokens) > 6 and min(tokens) >= 250 and max(tokens) <= 1024
    assert {len(sample.answers[0]) for sample in planned} == set(VARIED.answer_tokens)
    steps = [
        planned_step(settings, RELEASE, VARIED, RankShare(4, rank, length_multiple=2, with_images=rank == 0))
        for rank in range(4)
    ]
    held = [name for step in steps for batch in step.micro_batches for name in batch.sample_ids]
    assert sorted(held) == [sample.id for sample in planned]
    assert len({(step.length, len(step.micro_batches), step.response_tokens, step.num_samples) for step in steps}) == 1
    assert sum(len(batch.targets) for step in steps for batch in step.micro_batches) == steps[0].response_tokens
    assert all((batch.images is None) == (rank > 0) for rank in range(4) for batch in steps[rank].micro_batches)


def test_prompts_hold_pictures_between_their_marks():
    settings = JobSettings()
    settings.training.global_batch_size = 1
    (sample,) = samples(settings, RELEASE, Workload(picture_tokens=4, pictures=3, prompt_text_tokens=15))
    start, picture, end = RELEASE.vision_start_token_id, [RELEASE.image_token_id] * 4, RELEASE.vision_end_token_id
    marked = [0, 0, start, *picture, end]
    assert list(sample.prompt_ids) == [*marked, *marked, *marked, 0, 0, 0]


def test_the_default_is_the_built_in_prompt_and_the_largest_picture(qwen_tokenizer_dir):
    encoder = ChatEncoder(load_tokenizer(qwen_tokenizer_dir), Prompt.load())
    assert UNIFORM.prompt_text_tokens == len(encoder.prompt_ids(0, 0))
    (sample, *_) = samples(JobSettings(), RELEASE)
    assert sample.grids == ((1, 64, 80), (1, 64, 80)) and sample.num_tokens == 51 + 2 * 1280 + 60
    assert sample.prompt_ids.count(encoder.image_token_id) == 2 * 1280
    assert not {encoder.image_token_id} & set(sample.answer_ids)


def test_varied_sizes_are_those_of_the_real_pairs(qwen_tokenizer_dir):
    """Those that the comments in the source state."""
    manifest = json.loads((shared_path("real_pairs") / "manifest.json").read_text(encoding="utf-8"))["pairs"]
    images = image_settings(JobSettings(), RELEASE)
    sides = [(entry[side]["width"], entry[side]["height"]) for entry in manifest for side in ("src", "tgt")]
    sizes = sorted(grid_tokens(image_grid(*size, images), 2) for size in sides)
    tenths = [sizes[int((k + 0.5) * len(sizes) / 10)] for k in range(10)]
    assert (*tenths, sizes[-1]) == VARIED.picture_tokens
    assert (min(map(min, sides)), max(map(max, sides)), len(sides)) == (375, 1920, 52)
    encoder = ChatEncoder(load_tokenizer(qwen_tokenizer_dir), Prompt.load())
    answers = [len(encoder.answer_ids(entry["instruction"])) for entry in manifest if entry["instruction"]]
    assert (len(answers), min(answers), max(answers), round(sum(answers) / len(answers))) == (21, 6, 19, 10)


@given(tokens=st.integers(1, 20_000))
def test_a_picture_has_about_the_tokens_asked_for_and_is_not_long(tokens):
    images = ImageSettings(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=1, max_pixels=1 << 40)
    _, rows, columns = picture_grid(tokens, images)
    assert rows <= columns <= max(3 * rows, 6) and (tokens < 100 or columns <= 2.1 * rows)
    held = rows * columns // 4
    assert held <= tokens and (tokens < 100 or held >= 0.97 * tokens)
    assert picture_grid(None, dataclasses.replace(images, max_pixels=tokens * 1024)) == (1, rows, columns)


def test_limits_of_pixels_hold():
    images = ImageSettings(patch_size=16, merge_size=2, temporal_patch_size=2, min_pixels=9 * 1024, max_pixels=40_000)
    assert grid_tokens(picture_grid(1, images), 2) >= 9
    assert grid_tokens(picture_grid(5000, images), 2) * 1024 <= 40_000


@pytest.mark.parametrize(
    "sizes, words",
    [
        (dict(picture_tokens=0), "picture_tokens is 0, expected numbers of at least 1"),
        (dict(picture_tokens=()), r"picture_tokens is \(\)"),
        (dict(answer_tokens=(20, 0)), r"answer_tokens is \(20, 0\)"),
        (dict(pictures=-1), "pictures is -1"),
        (
            dict(pictures=3, prompt_text_tokens=6),
            "prompt_text_tokens is 6, expected more than 6: two marks around",
        ),
    ],
)
def test_sizes_that_cannot_be(sizes, words):
    with pytest.raises(ValueError, match=words):
        Workload(**sizes)


def test_a_sample_that_no_row_holds():
    settings = JobSettings()
    settings.data.sequence_length = 2048
    with pytest.raises(ValueError, match="sample-000000 takes 2671 tokens, more than data.sequence_length=2048: raise"):
        planned_step(settings, RELEASE, UNIFORM, RankShare())


def test_a_picture_is_zeros():
    (image, _) = samples(JobSettings(), RELEASE, Workload(picture_tokens=6))[0].images
    assert image.grid == (1, 4, 6) and torch.equal(image.load(), torch.zeros(24, 16 * 16 * 3, dtype=torch.uint8))


def dry_step() -> tuple:
    from editcaption_mega import platform

    settings = JobSettings()
    settings.data.sequence_length = 8192
    step = planned_step(settings, RELEASE, UNIFORM, RankShare())
    pixels = [batch.images.pixels for batch in step.micro_batches]
    moved = step.micro_batches[0].to(platform.device())
    return {tensor.device.type for tensor in pixels}, sum(map(len, pixels)), moved.input_ids.is_meta, moved.num_tokens


def test_pictures_of_a_dry_process_take_no_memory():
    """32 samples of two pictures would hold 250 MB."""
    ((kinds, patches, moved, num_tokens),) = on_fake_ranks(dry_step, ParallelSettings(), 1)
    assert (kinds, patches, moved, num_tokens) == ({"meta"}, 32 * 2 * 5120, True, 3 * 2671)
