"""Folders laid out as Qwen3-VL is released, 2B to 235B, through training, conversion and evaluation."""

import json
import shutil

import pytest
import torch
from safetensors.torch import load_file

from editcaption_mega.conversion.convert import hf_to_megatron, megatron_to_hf
from editcaption_mega.data.batching.dataset import PairDataset, open_pairs
from editcaption_mega.data.images.decode import decode_image
from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.run.preparation import check_before_work
from editcaption_mega.inference import Generator
from editcaption_mega.inference.local.folder import check_model
from editcaption_mega.inference.local.instructions import write_instructions
from editcaption_mega.model import Architecture
from editcaption_mega.settings import CandidateSettings, EvaluationSettings
from editcaption_mega.training import run_sft
from editcaption_mega.training.setup import open_dataset
from tests.helpers import released, small_job, tiny

SMALL = ["2B", "8B", "235B-A22B"]  # one file and tied; an index and a head of its own; experts


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("released")
    return {name: released.lay_out(root / name, name) for name in SMALL}


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_job.write_shards(tmp_path_factory.mktemp("pairs") / "shards", count=4)


class Spoiled:
    """Shards with one source picture that is none."""

    def __init__(self, shards, which):
        self.shards, self.which = shards, which

    def __getattr__(self, name):
        return getattr(self.shards, name)

    def __len__(self):
        return len(self.shards)

    def picture(self, i, side):
        return b"none" if (i, side) == (self.which, "source") else self.shards.picture(i, side)


def tensors(folder):
    return {name: tensor for path in folder.glob("*.safetensors") for name, tensor in load_file(path).items()}


@pytest.mark.parametrize("name", released.RELEASES)
def test_config_of_each_release(name):
    text, vision, tied, _ = released.RELEASES[name]
    found = Architecture.from_config(released.config(name))
    assert (found.num_layers, found.hidden_size, found.num_heads, found.tied_embeddings) == (
        text["num_hidden_layers"], text["hidden_size"], text["num_attention_heads"], tied,
    )  # fmt: skip
    assert (found.rope_theta, found.mrope_section, found.vocab_size) == (5e6, (24, 20, 20), 151936)
    assert found.vision.deepstack_layers == tuple(vision["deepstack_visual_indexes"])
    assert (found.experts is not None) == ("A" in name)


@pytest.mark.parametrize("name", SMALL)
def test_training_and_scoring_read_it_as_transformers_does(folders, shards, name):
    """The same prompt as its own processor makes, the same architecture as transformers writes for it."""
    from transformers import AutoProcessor

    folder = folders[name]
    architecture = Architecture.from_folder(folder)
    assert architecture == Architecture.from_folder(folder.with_name(folder.name + "-made"))
    settings = small_job.job(folder, shards, folder.with_name("run"))
    settings.data.min_pixels, settings.data.max_pixels = 65536, 16777216  # the processor's own
    dataset = open_dataset(settings)
    assert dataset.notes == [] and dataset.measure(range(4), 512)[1] == []
    processor = AutoProcessor.from_pretrained(folder)
    sample, stored = dataset.sample(0), dataset.shards[0]
    pictures = [decode_image(data) for data in (stored.source_bytes, stored.target_bytes)]
    expected = processor.apply_chat_template(
        dataset.encoder.prompt.messages(*pictures), tokenize=True, add_generation_prompt=True, return_dict=True
    )
    assert list(sample.prompt_ids) == expected["input_ids"][0]
    patches = tiny.pixel_values(sample, dataset.images)
    assert (patches - torch.as_tensor(expected["pixel_values"])).abs().max() <= 1e-6


@pytest.mark.parametrize("name", SMALL)
def test_conversion_and_back(folders, tmp_path, name):
    hf_to_megatron(folders[name], tmp_path / "store")
    megatron_to_hf(tmp_path / "store", tmp_path / "back")
    ours, theirs = tensors(tmp_path / "back"), tensors(folders[name])
    assert ours.keys() == theirs.keys() and all(torch.equal(ours[key], theirs[key]) for key in ours)
    for path in folders[name].iterdir():
        if "safetensors" not in path.name:
            assert (tmp_path / "back" / path.name).read_bytes() == path.read_bytes(), path.name


@pytest.mark.parametrize("name", SMALL)
def test_evaluation_in_process(folders, shards, name):
    assert check_model(folders[name]) == folders[name]
    dataset = open_pairs([str(shards)], folders[name], min_pixels=1024, max_pixels=1 << 20)
    generator = Generator(folders[name], device="cpu", dtype=torch.float32)
    assert dataset.encoder.end_token_id in generator.end_ids
    rows = list(write_instructions(generator, dataset, max_new_tokens=3, batch_size=4))
    assert [row["id"] for row in rows] == list(dataset.shards.ids)
    if name == "2B":  # a picture that cannot be used is a reason of its row
        spoiled = PairDataset(Spoiled(dataset.shards, 1), dataset.encoder, dataset.images)
        others = list(write_instructions(generator, spoiled, max_new_tokens=3, batch_size=4))
        assert others[1] | {"reason": ""} == {
            "id": rows[1]["id"], "status": "failed", "instruction": "", "reason": "", "thought": "", "tokens": 0,
            "finished": False,
        }  # fmt: skip
        assert rows[1]["id"] in others[1]["reason"] and "\n" not in others[1]["reason"]
        assert [row["id"] for row in others] == [row["id"] for row in rows]
        assert [others[i]["tokens"] for i in (0, 2, 3)] == [rows[i]["tokens"] for i in (0, 2, 3)]


@pytest.mark.parametrize("form", ["chat_template.jinja", "processor of transformers 5"])
def test_other_forms_of_the_same_folder(folders, shards, tmp_path, form):
    """What users make of a release: the template in its own file, or everything saved again by transformers 5."""
    from transformers import AutoProcessor

    folder = shutil.copytree(folders["2B"], tmp_path / "model")
    if form == "chat_template.jinja":
        template = json.loads((folder / "chat_template.json").read_text())["chat_template"]
        (folder / "chat_template.json").unlink()
        (folder / "chat_template.jinja").write_text(template)
    else:
        processor = AutoProcessor.from_pretrained(folder)
        for path in [*folder.glob("*processor*.json"), *folder.glob("chat_template*"), *folder.glob("token*")]:
            path.unlink()
        processor.save_pretrained(folder)
        assert not (folder / "preprocessor_config.json").exists(), "the settings are inside processor_config.json"
    options = dict(min_pixels=1024, max_pixels=1 << 20)
    a, b = (open_pairs([str(shards)], one, **options) for one in (folders["2B"], folder))
    assert check_model(folder) == folder and b.notes == [] and a.images == b.images
    assert [a.sample(i).prompt_ids for i in range(4)] == [b.sample(i).prompt_ids for i in range(4)]
    assert [a.sample(i).answers for i in range(4)] == [b.sample(i).answers for i in range(4)]


@pytest.mark.parametrize(
    "spoil, words",
    [
        (lambda c: c.update(quantization_config={"quant_method": "fp8"}), "the weights are quantized .FP8."),
        (lambda c: c["text_config"].update(vocab_size=300), "has shape .*, config.json asks for .300, 64."),
        (lambda c: c.update(image_token_id=1), "image token is .*, config.json says 1: tokenizer and model"),
        (lambda c: c.update(tie_word_embeddings=False), "lacks the tensor lm_head.weight"),
        (lambda c: c["vision_config"].update(temporal_patch_size=1), "patch_embed.proj.weight has shape"),
    ],
)
def test_evaluation_refuses_before_work(folders, shards, tmp_path, spoil, words):
    folder = shutil.copytree(folders["2B"], tmp_path / "model")
    settings = EvaluationSettings(models=[CandidateSettings("m", folder=str(folder))])
    benchmarks = [Benchmark("set", shards)]
    check_before_work(settings, benchmarks, judging=False)
    config = json.loads((folder / "config.json").read_text())
    spoil(config)
    (folder / "config.json").write_text(json.dumps(config))
    with pytest.raises(ValueError, match=words):
        check_before_work(settings, benchmarks, judging=False)


@pytest.mark.parametrize(
    "name, key, value",
    [
        ("config.json", "video_token_id", "x"),
        ("config.json", "dtype", "float99"),
        ("config.json", "dtype", []),
        ("config.json", "attn_implementation", 3),
        ("generation_config.json", "pad_token_id", {}),
    ],
)
def test_a_field_that_only_transformers_reads(folders, tmp_path, name, key, value):
    folder = shutil.copytree(folders["2B"], tmp_path / "model")
    content = json.loads((folder / name).read_text())
    released.put(folder / name, content | {key: value})
    with pytest.raises(ValueError, match="transformers cannot load this folder") as error:
        Generator(folder, device="cpu")
    assert str(error.value).startswith(str(folder)) and "\n" not in str(error.value)


@pytest.mark.parametrize("name", released.RELEASES)
def test_the_long_way(tmp_path, shards, name):
    """Trained, its checkpoint exported, loaded by transformers, its instructions written."""
    from transformers import AutoModelForImageTextToText

    folder = released.lay_out(tmp_path / name, name)
    run_sft(small_job.job(folder, shards, tmp_path / "run", steps=2, global_batch_size=4))
    megatron_to_hf(tmp_path / "run", tmp_path / "trained")
    names = {path.name for path in folder.iterdir() if "safetensors" not in path.name}
    assert names == {path.name for path in (tmp_path / "trained").iterdir() if "safetensors" not in path.name}
    config = json.loads((tmp_path / "trained/config.json").read_text())
    assert config["text_config"]["dtype"] == "float32", "the precision of the run"
    _, info = AutoModelForImageTextToText.from_pretrained(tmp_path / "trained", output_loading_info=True)
    assert not any(info[what] for what in ("missing_keys", "unexpected_keys", "mismatched_keys")), info
    dataset = open_pairs([str(shards)], tmp_path / "trained", min_pixels=1024, max_pixels=1 << 20)
    rows = list(write_instructions(Generator(tmp_path / "trained", device="cpu"), dataset, max_new_tokens=3))
    assert len(rows) == 4
