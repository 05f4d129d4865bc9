"""Generation with tiny random Qwen3-VL models, dense and mixture-of-experts."""

import json
import shutil
from dataclasses import dataclass

import pytest
import torch

from editcaption_mega.inference import Generation, Generator

IMAGE, VISION_START, VISION_END, END, PAD = 500, 502, 503, 504, 505
TEXT = dict(
    vocab_size=512,
    hidden_size=32,
    intermediate_size=64,
    num_hidden_layers=2,
    num_attention_heads=4,
    num_key_value_heads=2,
    head_dim=16,
    rms_norm_eps=1e-6,
    tie_word_embeddings=False,
    eos_token_id=END,
    rope_parameters=dict(rope_type="default", rope_theta=5e6, mrope_section=[4, 2, 2], mrope_interleaved=True),
)
VISION = dict(
    depth=2,
    hidden_size=16,
    intermediate_size=32,
    num_heads=2,
    patch_size=4,
    spatial_merge_size=2,
    temporal_patch_size=2,
    out_hidden_size=32,
    num_position_embeddings=36,
    deepstack_visual_indexes=[0, 1],
)


@dataclass
class Prompt:
    input_ids: list[int]
    pixel_values: torch.Tensor
    grid_thw: list[tuple[int, int, int]]


def make_prompt(seed, grids, before=3, after=4):
    g = torch.Generator().manual_seed(seed)

    def text(count):
        return torch.randint(0, 490, (count,), generator=g).tolist()

    ids = text(before)
    for t, h, w in grids:
        ids += [VISION_START] + [IMAGE] * (t * h * w // 4) + [VISION_END]
    patches = sum(t * h * w for t, h, w in grids)
    return Prompt(ids + text(after), torch.randn(patches, 3 * 2 * 4 * 4, generator=g), grids)


PROMPTS = [
    make_prompt(1, [(1, 4, 6), (1, 8, 4)]),
    make_prompt(2, [(1, 6, 6)], before=1, after=9),
    make_prompt(3, [], after=2),
    make_prompt(4, [(1, 4, 4), (1, 4, 4)], after=17),
    make_prompt(5, [(1, 2, 2)]),
]


def write_tokenizer(folder):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = {f"w{i}": i for i in range(512)}
    words["<end>"], words["<pad>"] = words.pop(f"w{END}"), words.pop(f"w{PAD}")
    core = Tokenizer(models.WordLevel(words, unk_token="w0"))
    core.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=core, eos_token="<end>", pad_token="<pad>").save_pretrained(folder)


def write_folder(folder, kind):
    from transformers import (
        Qwen3VLConfig,
        Qwen3VLForConditionalGeneration,
        Qwen3VLMoeConfig,
        Qwen3VLMoeForConditionalGeneration,
    )

    experts = dict(moe_intermediate_size=16, num_experts=4, num_experts_per_tok=2, norm_topk_prob=True)
    config_class, model_class, text = {
        "dense": (Qwen3VLConfig, Qwen3VLForConditionalGeneration, TEXT),
        "experts": (Qwen3VLMoeConfig, Qwen3VLMoeForConditionalGeneration, TEXT | experts),
    }[kind]
    config = config_class(
        text_config=text,
        vision_config=VISION,
        image_token_id=IMAGE,
        video_token_id=501,
        vision_start_token_id=VISION_START,
        vision_end_token_id=VISION_END,
        tie_word_embeddings=False,
    )
    torch.manual_seed(0)
    model = model_class(config).float().eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if parameter.dim() > 1:
                parameter.mul_(6.0 if "visual" in name else 4.0)  # so that pictures and positions change the answer
    # What real folders ask for; the caller's settings must win over it.
    model.generation_config.update(do_sample=True, temperature=0.7, top_p=0.8, top_k=20, eos_token_id=[END, 506])
    model.save_pretrained(folder)
    write_tokenizer(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: write_folder(tmp_path_factory.mktemp("hf") / kind, kind) for kind in ("dense", "experts")}


@pytest.fixture(scope="module", params=["dense", "experts"])
def generator(request, folders):
    return Generator(folders[request.param], device="cpu", dtype=torch.float32)


def greedy_by_hand(generator, prompt, count):
    """No cache, no padding, no `generate`: the whole sequence forward for each token."""
    ids, answer = torch.tensor([prompt.input_ids]), []
    for _ in range(count):
        inputs = {"input_ids": ids, "mm_token_type_ids": (ids == IMAGE).int(), "use_cache": False}
        if prompt.grid_thw:
            inputs |= {"pixel_values": prompt.pixel_values, "image_grid_thw": torch.tensor(prompt.grid_thw)}
        generator.model.model.rope_deltas = None
        with torch.no_grad():
            token = int(generator.model(**inputs).logits[0, -1].argmax())
        if token in (END, 506):
            return answer, True
        answer.append(token)
        ids = torch.cat((ids, torch.tensor([[token]])), dim=1)
    return answer, False


def test_greedy_equals_the_model_stepped_by_hand(generator):
    found = generator.generate(PROMPTS, max_new_tokens=10, seed=0, batch_size=1)
    for prompt, answer in zip(PROMPTS, found, strict=True):
        tokens, finished = greedy_by_hand(generator, prompt, 10)
        text = generator.tokenizer.decode(tokens, skip_special_tokens=True).strip()
        assert answer == Generation(text, len(tokens), finished)
    assert len({answer.text for answer in found}) == len(PROMPTS), "the model must be one whose answers differ"


@pytest.mark.parametrize("batch_size", [2, 5])
def test_a_batch_equals_one_by_one(generator, batch_size):
    alone = generator.generate(PROMPTS, max_new_tokens=12, seed=0, batch_size=1)
    assert generator.generate(PROMPTS, max_new_tokens=12, seed=0, batch_size=batch_size) == alone


def test_the_pictures_matter(generator):
    prompt = PROMPTS[0]
    other = Prompt(prompt.input_ids, -prompt.pixel_values, prompt.grid_thw)
    first, second = generator.generate([prompt, other], max_new_tokens=12, seed=0, batch_size=2)
    assert first.text != second.text


def test_sampling_belongs_to_the_seed_and_the_prompt(generator):
    def draw(seed, batch_size, **settings):
        settings = {"temperature": 1.0, "top_p": 0.95} | settings
        return generator.generate(PROMPTS, max_new_tokens=8, seed=seed, batch_size=batch_size, **settings)

    first = draw(7, 1)
    assert draw(7, 1) == first and draw(7, 3) == first and draw(7, 5) == first
    assert draw(8, 5) != first
    greedy = generator.generate(PROMPTS, max_new_tokens=8, seed=0, batch_size=5)
    assert first != greedy
    assert draw(7, 5, top_p=1e-6) == greedy and draw(7, 5, temperature=1e-4) == greedy
    twice = generator.generate([PROMPTS[0]] * 2, max_new_tokens=8, temperature=3.0, seed=1, batch_size=2)
    assert twice[0] != twice[1], "the same prompt in two places draws twice"


def test_finished_and_counts(generator):
    """Every token but the two ends made impossible: finished with nothing said; without them: cut off."""
    head = generator.model.lm_head.weight
    kept = head.detach().clone()
    cut = generator.generate(PROMPTS[:2], max_new_tokens=3, seed=0, batch_size=2)
    assert all(answer.token_count <= 3 and (answer.finished or answer.token_count == 3) for answer in cut)
    try:
        with torch.no_grad():
            head.zero_()  # all logits equal: the first index, 0, wins
        answers = generator.generate(PROMPTS[:2], max_new_tokens=3, seed=0, batch_size=2)
        assert answers == [Generation("w0 w0 w0", 3, False)] * 2
        generator.end_ids.insert(0, 0)
        answers = generator.generate(PROMPTS[:2], max_new_tokens=3, seed=0, batch_size=2)
        assert answers == [Generation("", 0, True)] * 2
    finally:
        with torch.no_grad():
            head.copy_(kept)
        generator.end_ids = [END, 506]
    assert generator.generate([], max_new_tokens=3, seed=0, batch_size=2) == []


def test_ends_come_from_the_configuration_and_the_tokenizer(generator):
    assert generator.end_ids == [END, 506]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"max_new_tokens": 0}, "`max_new_tokens` must be at least 1, found 0"),
        ({"temperature": -1.0}, "`temperature` must be 0 .* found -1.0"),
        ({"top_p": 0.0}, r"`top_p` must lie in \(0, 1\], found 0.0"),
        ({"batch_size": 0}, "`batch_size` must be at least 1, found 0"),
    ],
)
def test_settings_out_of_range(generator, change, message):
    with pytest.raises(ValueError, match=message):
        generator.generate(PROMPTS, **({"max_new_tokens": 1, "seed": 0, "batch_size": 1} | change))


def test_prompts_that_do_not_fit_their_grids(generator):
    good = PROMPTS[1]
    cases = {
        "`input_ids` must hold 9 image tokens": Prompt(good.input_ids[:4], good.pixel_values, good.grid_thw),
        "`pixel_values` must hold 36 patches": Prompt(good.input_ids, good.pixel_values[:5], good.grid_thw),
        "at least one token": Prompt([], good.pixel_values[:0], []),
    }
    for message, prompt in cases.items():
        with pytest.raises(ValueError, match=f"prompt 1: .*{message}"):
            generator.generate([good, prompt], max_new_tokens=1, seed=0, batch_size=1)


@pytest.mark.parametrize(
    ("remove", "message"),
    [
        (["config.json"], "expected config.json"),
        (["model.safetensors"], "expected weights as model.safetensors"),
        (["tokenizer.json"], "expected a tokenizer"),
        (["preprocessor_config.json"], "expected preprocessor_config.json"),
    ],
)
def test_folders_that_lack_something(folders, tmp_path, remove, message):
    copy = shutil.copytree(folders["dense"], tmp_path / "model")
    for name in remove:
        (copy / name).unlink()
    with pytest.raises(ValueError, match=message) as caught:
        Generator(copy, device="cpu")
    assert str(copy) in str(caught.value) and "\n" not in str(caught.value)


def test_folders_of_another_kind(folders, tmp_path):
    with pytest.raises(ValueError, match="found no folder"):
        Generator(tmp_path / "nothing", device="cpu")
    copy = shutil.copytree(folders["dense"], tmp_path / "model")
    (copy / "model.safetensors.index.json").write_text(json.dumps({"weight_map": {"a": "absent.safetensors"}}))
    with pytest.raises(ValueError, match=r"the 1 weight files .* found 0 \(missing: absent.safetensors\)"):
        Generator(copy, device="cpu")
    (copy / "config.json").write_text('{"model_type": "llama"}')
    with pytest.raises(ValueError, match="`model_type` must be one of .*found 'llama'"):
        Generator(copy, device="cpu")
    (copy / "config.json").write_text("not json")
    with pytest.raises(ValueError, match="config.json: not valid JSON"):
        Generator(copy, device="cpu")


@pytest.mark.parametrize("with_generation_config", [True, False])
def test_E5_the_end_that_training_writes_is_always_an_end(folders, tmp_path, with_generation_config):
    """A folder whose files name another end, or none: at 837b10c an answer went on beyond <|im_end|>."""
    copy = shutil.copytree(folders["dense"], tmp_path / "model")
    (copy / "tokenizer.json").write_text((copy / "tokenizer.json").read_text().replace('"w499"', '"<|im_end|>"'))
    if not with_generation_config:
        (copy / "generation_config.json").unlink()
    generator = Generator(copy, device="cpu")
    assert {499, END} <= set(generator.end_ids) and (506 in generator.end_ids) == with_generation_config
    answer = generator._read([7, 8, 499, 9])
    assert (answer.text, answer.token_count, answer.finished) == ("w7 w8", 2, True)
