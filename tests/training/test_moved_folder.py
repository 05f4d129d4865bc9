"""The Hugging Face folder is moved away while a job trains: its checkpoints lack nothing."""

import json
import shutil

import pytest
from safetensors import safe_open

from editcaption_mega.conversion.convert import megatron_to_hf
from editcaption_mega.training import prepare, run_sft
from tests.helpers import released, small_job


@pytest.fixture(scope="module")
def shards(tmp_path_factory):
    return small_job.write_shards(tmp_path_factory.mktemp("pairs") / "shards", count=4)


def test_checkpoints_hold_what_was_read_at_the_start(tmp_path, shards, monkeypatch):
    folder = released.lay_out(tmp_path / "model", "235B-A22B")
    kept = shutil.copytree(folder, tmp_path / "kept")
    tokenizer = json.loads((folder / "tokenizer_config.json").read_text())
    released.put(folder / "tokenizer_config.json", tokenizer | {"chat_template": "another, that is not taken"})
    load = prepare.load_weights

    def load_and_move(*arguments, **options):
        load(*arguments, **options)
        shutil.rmtree(folder)

    monkeypatch.setattr(prepare, "load_weights", load_and_move)
    settings = small_job.job(folder, shards, tmp_path / "run", steps=2, global_batch_size=4)
    settings.checkpoint.every, settings.checkpoint.keep = 1, 1
    run_sft(settings)
    megatron_to_hf(tmp_path / "run", tmp_path / "trained")
    for path in kept.iterdir():
        if path.name not in ("config.json", "model.safetensors.index.json") and path.suffix != ".safetensors":
            assert (tmp_path / "trained" / path.name).read_bytes() == path.read_bytes(), path.name
    log = (tmp_path / "run/log.txt").read_text()
    assert "chat templates of chat_template.json and tokenizer_config.json differ: chat_template.json is taken" in log
    config = json.loads((kept / "config.json").read_text())
    config["text_config"]["dtype"] = "float32"
    assert json.loads((tmp_path / "trained/config.json").read_text()) == config
    experts = "model.language_model.layers.0.mlp.experts.down_proj"  # in the order of the folder that is gone
    index = json.loads((kept / "model.safetensors.index.json").read_text())["weight_map"]
    shapes = []
    for path in (tmp_path / "trained/model.safetensors", kept / index[experts]):
        with safe_open(path, framework="pt") as file:
            shapes.append(file.get_slice(experts).get_shape())
    assert shapes[0] == shapes[1]


@pytest.mark.parametrize("name", ["config.json", "tokenizer.json", "preprocessor_config.json"])
def test_what_is_missing_is_missed_at_the_start(tmp_path, shards, name):
    folder = small_job.write_folder(tmp_path / "model")
    (folder / name).unlink()
    with pytest.raises(ValueError, match=f"lacks (a tokenizer: expected )?{name}"):
        run_sft(small_job.job(folder, shards, tmp_path / "run", steps=2, global_batch_size=4))
    assert not list(tmp_path.glob("run/checkpoints/*"))
