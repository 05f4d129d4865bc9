"""Two files as pictures: the text is that of the same pair in shards, at an address too; what is no picture or no model
is said in a sentence."""

import os

import pytest

from editcaption_mega.conversion.convert import merge_adapter
from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.data.images.decode import encode_png
from editcaption_mega.data.synthetic import WorldSettings, render_pair
from editcaption_mega.inference.endpoint.address import Endpoint
from editcaption_mega.inference.local.instructions import write_instructions
from editcaption_mega.inference.own_pictures import (
    Captioner,
    CaptionOptions,
    PictureFile,
    ask_for_caption,
    check_model_name,
)
from editcaption_mega.settings import AdapterSettings, PixelLimits
from tests.helpers import small_job
from tests.helpers.random_adapter import write_random_adapter
from tests.helpers.scripted_server import ScriptedServer

COUNT, SEED = 3, 3  # of small_job's shards


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return small_job.write_folder(tmp_path_factory.mktemp("own_pictures") / "model")


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    root = tmp_path_factory.mktemp("pictures")
    paths = []
    for index in range(COUNT):
        pair = render_pair(WorldSettings(), SEED, index)
        for side, image in (("before", pair.source), ("after", pair.target)):
            (root / f"{index}_{side}.png").write_bytes(encode_png(image))
        paths.append((root / f"{index}_before.png", root / f"{index}_after.png"))
    return paths


def test_the_text_is_that_of_the_same_pair_in_shards(folder, pictures, tmp_path):
    shards = small_job.write_shards(tmp_path / "shards", COUNT, SEED)
    limits = PixelLimits(min_pixels=1024)
    captioner = Captioner(folder, CaptionOptions(limits, max_tokens=12))
    dataset = open_pairs([str(shards)], folder, min_pixels=limits.min_pixels, max_pixels=limits.max_pixels)
    records = list(write_instructions(captioner._generator, dataset, max_new_tokens=12, batch_size=1))
    answers = [captioner.answer(*map(PictureFile.read, pair)) for pair in pictures]
    assert [answer.text for answer in answers] == [record["instruction"] for record in records]
    assert [answer.status for answer in answers] == [record["status"] for record in records]
    assert any(answer.text for answer in answers)
    turned = captioner.answer(*map(PictureFile.read, reversed(pictures[0])))
    sample = dataset.prompt(0)
    assert turned.status and sample.images[0].grid == sample.images[1].grid  # the other way round is another prompt


def test_a_peft_folder_is_a_model(folder, pictures, tmp_path):
    adapter = write_random_adapter(tmp_path / "adapter", folder, AdapterSettings(rank=4, alpha=8.0))
    merge_adapter(adapter, tmp_path / "merged", base=folder)
    read = [PictureFile.read(path) for path in pictures[0]]
    options = CaptionOptions(PixelLimits(min_pixels=1024), max_tokens=12)
    texts = [Captioner(model, options).answer(*read).text for model in (adapter, tmp_path / "merged", folder)]
    assert texts[0] == texts[1] != texts[2]


def test_a_model_at_an_address_gets_the_prompt_and_both_pictures(pictures):
    asked = []

    def reply(body):
        asked.append(body)
        return "Paint the wall red."

    with ScriptedServer(reply) as server:
        endpoint = Endpoint(url=server.url, model="m")
        answer = ask_for_caption(endpoint, *map(PictureFile.read, pictures[0]), CaptionOptions(max_tokens=77))
    assert answer.text == "Paint the wall red." and answer.status == "ok"
    (body,) = asked
    parts = body["messages"][-1]["content"]
    assert [part["type"] for part in parts].count("image_url") == 2 and body["max_tokens"] == 77


def broken(root):
    """name -> what is wrong with it."""
    (root / "empty.png").write_bytes(b"")
    (root / "text.png").write_text("not a picture")
    whole = encode_png(render_pair(WorldSettings(), 0, 0).source)
    (root / "cut.png").write_bytes(whole[: len(whole) // 2])
    (root / "folder.png").mkdir()
    os.mkfifo(root / "pipe.png")
    return {
        "nowhere.png": "no such file; expected a picture",
        "empty.png": "empty",
        "text.png": "text.png",
        "cut.png": "cut.png",
        "folder.png": "a folder, expected a file",
        "pipe.png": "a pipe or device",
    }


def test_what_is_no_picture(tmp_path):
    for name, words in broken(tmp_path).items():
        with pytest.raises(ValueError, match=words) as refused:
            PictureFile.read(tmp_path / name)
        assert name in str(refused.value) and "\n" not in str(refused.value)


def test_what_is_no_model(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("")
    (tmp_path / "empty").mkdir()
    (tmp_path / "run/checkpoints").mkdir(parents=True)
    for name, words in {
        "nowhere": "no such folder",
        "Qwen/Qwen3-VL-2B-Instruct": "hf download Qwen/Qwen3-VL-2B-Instruct",
        "file": "is a file",
        "empty": "holds no config.json",
        "run": "run editcaption convert megatron-to-hf --checkpoint run",
    }.items():
        with pytest.raises(ValueError, match=words):
            check_model_name(name)
        with pytest.raises(ValueError, match=words):
            Captioner(name)
