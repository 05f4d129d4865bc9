"""What a training step reads where there is no data: samples of stated sizes, packed by the loader's own code.

Nothing of a picture but its size decides what a step costs, so a picture here is a grid whose pixels are zeros.
"""

import math
from dataclasses import dataclass
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.data import SampleOrder
from editcaption_mega.data.batching.dataset import PairDataset, SampleLengths, too_long
from editcaption_mega.data.batching.loader import SequenceReader, Step, StepStream
from editcaption_mega.data.batching.packing import Packer, RankShare
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.data.images.patches import Grid, ImageSettings, grid_tokens, image_grid
from editcaption_mega.model import Architecture
from editcaption_mega.settings import DPOSettings, JobSettings


@dataclass(frozen=True)
class Workload:
    """Sizes of samples in tokens. Several sizes are taken in turn, so the same settings give the same samples.

    picture_tokens      of each picture of a sample, before the limits of `data` change its size as that of a real one;
                        None: as many as `data.max_pixels` allows
    pictures            of a sample, all of one size, as a source and its target are
    prompt_text_tokens  of a prompt, without the pictures' own: text, the turns' marks, two marks around each picture
    answer_tokens       of an answer with its end of turn
    """

    picture_tokens: int | tuple[int, ...] | None = None
    pictures: int = 2
    # The built-in prompt by Qwen's tokenizer and Qwen3-VL's template: 31 before the first picture, 8 between, 12 after.
    prompt_text_tokens: int = 51
    # A detailed instruction of two or three sentences. Those of public sets are shorter (21 of AnyEdit and
    # Step1X-Edit: 6 to 19 tokens, 10 on average); the rubric takes off beyond 150 words, which are about 200 tokens.
    answer_tokens: int | tuple[int, ...] = 60

    def __post_init__(self) -> None:
        for name, least in (("picture_tokens", 1), ("answer_tokens", 1), ("pictures", 0)):
            value = getattr(self, name)
            sizes = value if isinstance(value, tuple) else (value,)
            if not sizes or any(size is not None and size < least for size in sizes):
                raise ValueError(f"workload: {name} is {value}, expected numbers of at least {least}")
        marks = 2 * self.pictures
        if self.prompt_text_tokens <= marks:
            raise ValueError(
                f"workload: prompt_text_tokens is {self.prompt_text_tokens}, expected more than {marks}: two marks "
                f"around each of {self.pictures} pictures, and text"
            )


# Sizes that vary as in real data. Pictures: the middle of each tenth, and the largest, of 52 of AnyEdit and
# Step1X-Edit, with sides of 375 to 1,920 pixels. Answers: from a phrase to the longest that the rubric takes.
VARIED = Workload(
    picture_tokens=(256, 256, 260, 260, 280, 300, 361, 1024, 1134, 1222, 1247),
    answer_tokens=(20, 30, 40, 50, 60, 70, 80, 110, 150, 200),
)


UNIFORM = Workload()
_SIZES = 11  # samples that stand for all of a data set: each tenth by length, and the longest
_MOST_SAMPLES, _MOST_TOKENS = 1_000_000, 10_000_000  # of a step, and of a sample's pictures: what is soon made


class BlankImage(NamedTuple):
    """A picture that is a size."""

    grid: Grid
    patch_bytes: int

    def load(self) -> Tensor:
        """Zeros [patches, patch_bytes] uint8; in a dry process without values, which take no memory."""
        device = platform.device() if platform.device().type == "meta" else None
        return torch.zeros(math.prod(self.grid), self.patch_bytes, dtype=torch.uint8, device=device)


@dataclass(frozen=True)
class _BlankSamples:
    """Samples as the loader asks for them."""

    samples: list[EncodedSample]

    def sample(self, i: int) -> EncodedSample:
        return self.samples[i]


def image_settings(settings: JobSettings, architecture: Architecture) -> ImageSettings:
    """How pictures become patches of this model, under the limits of `data`."""
    vision = architecture.vision
    return ImageSettings(
        patch_size=vision.patch_size,
        merge_size=vision.spatial_merge_size,
        temporal_patch_size=vision.temporal_patch_size,
        min_pixels=settings.data.min_pixels,
        max_pixels=settings.data.max_pixels,
    )


def picture_grid(tokens: int | None, images: ImageSettings) -> Grid:
    """The grid that the limits of pixels leave of a picture of about `tokens` tokens; None: of as many as they allow.

    It is the squarest of the largest pictures that are at most twice as long as wide: 1,280 tokens are 32 x 40."""
    if tokens is None:
        tokens = max(1, images.max_pixels // images.factor**2)
    longest = math.isqrt(tokens)
    shortest = min(math.isqrt(tokens // 2) + 1, longest)
    rows = max(range(shortest, longest + 1), key=lambda n: (n * (tokens // n), n))
    return image_grid(tokens // rows * images.factor, rows * images.factor, images)


def samples(settings: JobSettings, architecture: Architecture, workload: Workload = UNIFORM) -> list[EncodedSample]:
    """The samples of one step over all ranks: `training.global_batch_size` of them, with two answers each for DPO.

    Raises ValueError for a sample that `data.sequence_length` cannot hold, and for more than can be laid out here."""
    if (count := settings.training.global_batch_size) > _MOST_SAMPLES:
        raise ValueError(
            f"training.global_batch_size={count} is more than the {_MOST_SAMPLES} that a plan lays out: lower it"
        )
    images, text = image_settings(settings, architecture), _text_id(architecture)
    num_answers = 2 if isinstance(settings, DPOSettings) else 1
    made = []
    for i in range(settings.training.global_batch_size):
        grid = picture_grid(_in_turn(workload.picture_tokens, i), images)
        of_pictures = workload.pictures * grid_tokens(grid, images.merge_size)
        if of_pictures > _MOST_TOKENS:  # before they are made
            raise ValueError(
                f"pictures of a sample take {of_pictures} tokens, more than the {_MOST_TOKENS} that a plan lays out: "
                "lower data.max_pixels"
            )
        lengths = [_in_turn(workload.answer_tokens, i * num_answers + k) for k in range(num_answers)]
        sample = EncodedSample(
            id=f"sample-{i:06d}",
            prompt_ids=_prompt_ids(grid_tokens(grid, images.merge_size), workload, architecture),
            answers=tuple((text,) * length for length in lengths),
            images=(BlankImage(grid, images.patch_bytes),) * workload.pictures,
            shared_prompt=settings.data.shared_prompt,
        )
        if problem := too_long(sample, settings.data.sequence_length):
            raise ValueError(problem)
        made.append(sample)
    return made


def planned_step(settings: JobSettings, architecture: Architecture, workload: Workload, share: RankShare) -> Step:
    """The step that the rank of this share would train on, as `StepStream` makes it.

    Raises ValueError as `samples` and `plan_sequences` do."""
    made = samples(settings, architecture, workload)
    reader = SequenceReader(_BlankSamples(made), SampleLengths.of(made), packer_of(settings, architecture, share))
    order = SampleOrder(len(made), settings.training.seed, shuffle=settings.data.shuffle)
    (step,) = StepStream(reader, order, settings.training.global_batch_size).steps(0, 1)
    return step


def packer_of(settings: JobSettings, architecture: Architecture, share: RankShare) -> Packer:
    """The loader's packer for the rank of this share."""
    return Packer(
        image_settings=image_settings(settings, architecture),
        image_token_id=architecture.image_token_id,
        pad_token_id=_text_id(architecture),
        num_grid_per_side=architecture.vision.num_grid_per_side,
        sequence_length=settings.data.sequence_length,
        packing=settings.data.packing,
        share=share,
    )


def _in_turn[Size: int | None](sizes: Size | tuple[Size, ...], i: int) -> Size:
    return sizes[i % len(sizes)] if isinstance(sizes, tuple) else sizes


def _text_id(architecture: Architecture) -> int:
    """A token that is no mark of a picture."""
    marks = (architecture.image_token_id, architecture.vision_start_token_id, architecture.vision_end_token_id)
    return next(token for token in range(len(marks) + 1) if token not in marks)


@lru_cache(maxsize=64)
def _prompt_ids(picture_tokens: int, workload: Workload, architecture: Architecture) -> tuple[int, ...]:
    """Pictures between their marks, with the text about evenly before, between and after them."""
    text = [_text_id(architecture)] * (workload.prompt_text_tokens - 2 * workload.pictures)
    part = len(text) // (workload.pictures + 1)
    picture = [architecture.image_token_id] * picture_tokens
    marked = [architecture.vision_start_token_id, *picture, architecture.vision_end_token_id]
    return tuple([*text[:part], *marked] * workload.pictures + text[part * workload.pictures :])


def workload_of(dataset: PairDataset, lengths: SampleLengths) -> Workload:
    """Samples that stand for all: one of each tenth by length, and the longest, each with its own answers."""
    order = np.argsort(lengths.num_tokens, kind="stable")
    places = [round((k + 0.5) * (len(order) - 1) / (_SIZES - 1)) for k in range(_SIZES - 1)] + [len(order) - 1]
    pictures: list[int] = []
    answers: list[int] = []
    text = 0
    for i in order[places].tolist():
        prompt = dataset.prompt(i)
        of_pictures = prompt.prompt_ids.count(dataset.encoder.image_token_id)
        text = len(prompt.prompt_ids) - of_pictures
        pictures.append(of_pictures // len(prompt.images))
        answers += [length for length in lengths.answers[i].tolist() if length]
    return Workload(tuple(pictures), len(prompt.images), text, tuple(answers))
