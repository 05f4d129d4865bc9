"""The prompt and the picture patches against transformers' own processor."""

import json

import pytest
import torch
from PIL import Image

from editcaption_mega.data.images.patches import (
    ImageSettings,
    grid_tokens,
    image_grid,
    image_patches,
    limit_picture,
    processor_patches,
)
from editcaption_mega.data.text.prompt import ChatEncoder, Prompt, load_tokenizer

SIZES = [(96, 96), (640, 480), (333, 517), (37, 411), (1024, 768), (2000, 60), (8, 8)]


@pytest.fixture(scope="module")
def encoder(any_qwen_tokenizer_dir):
    return ChatEncoder(load_tokenizer(any_qwen_tokenizer_dir), Prompt.load())


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    folder = tmp_path_factory.mktemp("processor")
    config = {"patch_size": 16, "merge_size": 2, "temporal_patch_size": 2}
    (folder / "preprocessor_config.json").write_text(json.dumps(config))
    return ImageSettings.from_folder(folder, min_pixels=4096, max_pixels=512 * 512)


def reference_processor(images: ImageSettings):
    from transformers import Qwen2VLImageProcessor

    return Qwen2VLImageProcessor(
        patch_size=images.patch_size,
        merge_size=images.merge_size,
        temporal_patch_size=images.temporal_patch_size,
        image_mean=list(images.mean),
        image_std=list(images.std),
        size={"shortest_edge": images.min_pixels, "longest_edge": images.max_pixels},
    )


def picture(width: int, height: int, seed: int = 0) -> Image.Image:
    noise = torch.randint(0, 256, (height, width, 3), generator=torch.Generator().manual_seed(seed), dtype=torch.uint8)
    return Image.fromarray(noise.numpy())


@pytest.mark.parametrize("size", SIZES)
def test_patches_equal_the_transformers_processor(images, size):
    image = picture(*size)
    expected = reference_processor(images)(images=[image], return_tensors="pt")
    patches = processor_patches(image_patches(image, images), images)
    assert list(image_grid(*size, images)) == expected["image_grid_thw"][0].tolist()
    assert patches.shape == expected["pixel_values"].shape
    assert torch.equal(patches, expected["pixel_values"])


@pytest.mark.parametrize("size", [(320, 320), (640, 480), (1200, 90), (16, 16)])
def test_a_limited_picture_is_what_the_model_in_process_sees(images, size):
    image = picture(*size)
    limited = limit_picture(image, min_pixels=images.min_pixels, max_pixels=images.max_pixels)
    assert limited.mode == "RGB" and limited.width * limited.height <= images.max_pixels
    assert (limited.size == size) == (size == (320, 320)), "what fits keeps its size"
    assert torch.equal(image_patches(limited, images), image_patches(image, images))


@pytest.mark.parametrize("text", ["Make the sky red.", "Ajoute un café ☕ à gauche", "移动红色的圆"])
def test_token_ids_equal_the_transformers_processor(encoder, images, text, any_qwen_tokenizer_dir):
    from transformers import Qwen3VLProcessor

    # The video half of the processor is not used; it only has to be there.
    from transformers.models.qwen3_vl.video_processing_qwen3_vl import Qwen3VLVideoProcessor

    processor = Qwen3VLProcessor(
        image_processor=reference_processor(images),
        tokenizer=encoder.tokenizer,
        video_processor=Qwen3VLVideoProcessor(),
        chat_template=encoder.tokenizer.chat_template,
    )
    source, target = picture(320, 200), picture(111, 420)
    prompt = encoder.prompt
    expected = processor.apply_chat_template(
        prompt.messages(source, target), tokenize=True, add_generation_prompt=True, return_dict=True
    )
    tokens = [grid_tokens(image_grid(*p.size, images), images.merge_size) for p in (source, target)]
    ids = encoder.prompt_ids(*tokens)
    wanted = expected["input_ids"]
    assert ids == list(wanted[0] if isinstance(wanted[0], list) else wanted)
    answered = [*prompt.messages(source, target), {"role": "assistant", "content": [{"type": "text", "text": text}]}]
    whole = processor.apply_chat_template(answered, tokenize=True, return_dict=True)["input_ids"]
    whole = whole[0] if isinstance(whole[0], list) else whole
    newline = encoder.tokenizer("\n", add_special_tokens=False)["input_ids"]
    assert [*ids, *encoder.answer_ids(text), *newline] == list(whole)


def test_extreme_aspect_ratio_is_refused(images):
    with pytest.raises(ValueError, match="200 times longer than wide"):
        image_grid(20_000, 20, images)


def test_prompt_file(tmp_path):
    path = tmp_path / "prompt.yaml"
    path.write_text("system: s\nbefore_source: a\nbefore_target: b\nrequest: c\n")
    assert Prompt.load(path).request == "c"
    assert Prompt.load(path).fingerprint != Prompt.load().fingerprint
    path.write_text("system: s\n")
    with pytest.raises(ValueError, match="before_source"):
        Prompt.load(path)
    with pytest.raises(ValueError, match="does not exist"):
        Prompt.load(tmp_path / "none.yaml")


@pytest.mark.parametrize(
    "request_text, message",
    [
        ('"x </s>"', "holds </s>, which models read as a control token"),
        ('"[INST] x"', r"holds \[INST\], which"),
        ('"<start_of_turn>user"', "holds <start_of_turn>, which"),
        ('"x \\0"', r"holds \\x00, which"),
        ('"x \\e[2J"', r"holds \\x1b, which"),
        ("c\nsystem: t", "`system` stands there twice"),
    ],
)
def test_a_prompt_is_text_and_each_of_its_fields_stands_there_once(tmp_path, request_text, message):
    path = tmp_path / "prompt.yaml"
    path.write_text(f"system: s\nbefore_source: a\nbefore_target: b\nrequest: {request_text}\n")
    with pytest.raises(ValueError, match=message):
        Prompt.load(path)
    path.write_text('system: s\nbefore_source: a\nbefore_target: b\nrequest: "Answer in <answer>, [x] and\\ttabs."\n')
    assert Prompt.load(path).request == "Answer in <answer>, [x] and\ttabs."


def test_folder_without_tokenizer(tmp_path):
    with pytest.raises(ValueError, match="lacks a tokenizer"):
        load_tokenizer(tmp_path)


def test_folder_without_image_processor(tmp_path):
    with pytest.raises(ValueError, match="lacks preprocessor_config.json"):
        ImageSettings.from_folder(tmp_path, min_pixels=1, max_pixels=2)


def test_empty_instruction_is_refused(encoder):
    with pytest.raises(ValueError, match="no token"):
        encoder.answer_ids("  ")
