"""Tiny random Qwen3-VL folders of true architecture, and rows to feed them. Used by tests and the parity matrix."""

from dataclasses import dataclass, replace

import torch

from editcaption_mega.data.batching.packing import Packer, RankShare
from editcaption_mega.data.batching.sample import EncodedSample
from editcaption_mega.data.images.patches import ImageSettings, processor_patches

VOCABULARY = 512
IMAGE_TOKEN, VISION_START, VISION_END = 500, 502, 503
IMAGES = ImageSettings(patch_size=4, merge_size=2, temporal_patch_size=2, min_pixels=1, max_pixels=10**6)
TABLE_SIDE = 6


def hf_model(*, experts: bool, tied: bool = False, layers: int = 8, seed: int = 0):
    """A random transformers model with weights large enough for routing and norms to matter."""
    import transformers
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    transformers.logging.set_verbosity_error()
    text = dict(
        vocab_size=VOCABULARY,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=layers,
        num_attention_heads=8,
        num_key_value_heads=4,
        head_dim=32,
        rms_norm_eps=1e-6,
        attention_bias=False,
        pad_token_id=None,
        tie_word_embeddings=tied,
        rope_parameters=dict(
            rope_type="default", rope_theta=5000000.0, mrope_section=[6, 5, 5], mrope_interleaved=True
        ),
    )
    if experts:
        text |= dict(moe_intermediate_size=48, num_experts=8, num_experts_per_tok=2, norm_topk_prob=True)
    vision = dict(
        depth=4,
        hidden_size=32,
        intermediate_size=64,
        num_heads=4,
        patch_size=4,
        spatial_merge_size=2,
        temporal_patch_size=2,
        out_hidden_size=64,
        num_position_embeddings=TABLE_SIDE**2,
        deepstack_visual_indexes=[0, 2],
    )
    kind, model = (
        (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration)
        if experts
        else (Qwen3VLConfig, Qwen3VLForConditionalGeneration)
    )
    config = kind(
        text_config=text,
        vision_config=vision,
        image_token_id=IMAGE_TOKEN,
        video_token_id=501,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=tied,
    )
    torch.manual_seed(seed)
    model = model(config).float().eval()
    generator = torch.Generator().manual_seed(seed + 1)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.dim() == 1 and "norm" in name and name.endswith("weight"):
                parameter.copy_(1 + 0.2 * noise)
            elif parameter.dim() > 1:
                parameter.mul_(2.0)
            else:
                parameter.copy_(0.05 * noise)
    return model


@dataclass(frozen=True)
class ImageInMemory:
    """A picture of a sample that is in no shard."""

    grid: tuple[int, int, int]
    patches: torch.Tensor

    def load(self) -> torch.Tensor:
        return self.patches


def samples(
    count: int, seed: int = 1, *, picture_seed: int | None = None, text_only: tuple[int, ...] = ()
) -> list[EncodedSample]:
    """Random samples with two pictures of different sizes each (`text_only`: none), and unequal answers."""
    generator = torch.Generator().manual_seed(seed)
    sizes = [((1, 4, 6), (1, 8, 4)), ((1, 6, 6), (1, 2, 4)), ((1, 4, 4), (1, 6, 2)), ((1, 2, 2), (1, 4, 8))]

    def tokens(n: int) -> list[int]:
        return torch.randint(0, 490, (n,), generator=generator).tolist()

    out = []
    for i in range(count):
        grids = sizes[i % len(sizes)]
        pictures = torch.Generator().manual_seed(1000 * (seed if picture_seed is None else picture_seed) + i)
        patches = [
            torch.randint(0, 256, (grid[1] * grid[2], 48), generator=pictures, dtype=torch.uint8) for grid in grids
        ]
        prompt = tokens(3)
        for grid in grids:
            prompt += [VISION_START] + [IMAGE_TOKEN] * (grid[1] * grid[2] // 4) + [VISION_END] + tokens(2)
        answer = tokens(4 + 3 * (i % 3))
        if text_only and i in text_only:
            prompt, grids, patches = tokens(9), (), []
        images = tuple(map(ImageInMemory, grids, patches))
        out.append(EncodedSample(f"s{i}", tuple(prompt), (tuple(answer),), images))
    return out


def pairs(count: int, seed: int = 1, **options) -> list[EncodedSample]:
    """The same samples with a second, rejected answer each, of another length."""
    generator = torch.Generator().manual_seed(7000 + seed)
    out = []
    for i, sample in enumerate(samples(count, seed, **options)):
        rejected = torch.randint(0, 490, (3 + 4 * ((i + 1) % 3),), generator=generator)
        out.append(replace(sample, answers=(*sample.answers, tuple(rejected.tolist()))))
    return out


def unshared(chosen: list[EncodedSample]) -> list[EncodedSample]:
    """The same pairs as two plain sequences each."""
    return [replace(pair, shared_prompt=False) for pair in chosen]


def row(chosen: list[EncodedSample], length: int, *, with_images: bool = True, ranks: int = 1, rank: int = 0):
    """One packed sequence of `length` tokens."""
    share = RankShare(with_images=with_images, num_vision_ranks=ranks, vision_rank=rank)
    return Packer(IMAGES, IMAGE_TOKEN, 0, TABLE_SIDE, length, share=share).collate(chosen, length)


def pixel_values(sample: EncodedSample, settings: ImageSettings) -> torch.Tensor:
    """The pictures of a sample as transformers' models take them."""
    return torch.cat([processor_patches(image.load(), settings) for image in sample.images])


def hf_inputs(sample: EncodedSample) -> dict[str, torch.Tensor]:
    """The same sample as transformers takes it, one row."""
    ids = torch.tensor([*sample.prompt_ids, *sample.answer_ids])[None]
    if not sample.grids:
        return dict(input_ids=ids)
    return dict(
        input_ids=ids,
        pixel_values=pixel_values(sample, IMAGES),
        image_grid_thw=torch.tensor(sample.grids),
        mm_token_type_ids=(ids == IMAGE_TOKEN).int(),
    )
