"""What is said of paths before PyTorch is imported."""

from functools import reduce

import pytest

from editcaption_mega.settings import DPOSettings, check_paths


@pytest.fixture
def job(tmp_path):
    (tmp_path / "model").mkdir()
    (tmp_path / "model/config.json").write_text("{}")
    (tmp_path / "hf").mkdir()
    (tmp_path / "hf/preprocessor_config.json").write_text("{}")
    (tmp_path / "shards").mkdir()
    (tmp_path / "shards/index.json").write_text("{}")
    (tmp_path / "pairs.jsonl").write_text("{}")
    settings = DPOSettings()
    settings.model.folder = str(tmp_path / "model")
    settings.data.shards = [str(tmp_path / "shards")]
    settings.training.output = str(tmp_path / "runs/one")
    return settings


def test_all_is_there(job):
    check_paths(job)


@pytest.mark.parametrize(
    "name, value, words",
    [
        ("model.folder", "Qwen/Qwen3-VL-2B-Instruct", "no such folder.*hf download Qwen/Qwen3-VL-2B-Instruct"),
        ("model.folder", "{}/nowhere", "model.folder=.*nowhere: no such folder; expected a Hugging Face"),
        ("model.folder", "{}/shards", "holds no config.json"),
        ("model.folder", "{}/pairs.jsonl", "is a file"),
        ("model.checkpoint", "{}/nowhere", "model.checkpoint=.*no such folder.*model.checkpoint= .nothing. to begin"),
        ("model.checkpoint", "{}/hf", "is a Hugging Face folder: give it as model.folder"),
        (
            "model.adapters.start",
            "{}/nowhere",
            "model.adapters.start=.*no such folder; expected a run, a checkpoint or",
        ),
        ("model.adapters.start", "{}/pairs.jsonl", "model.adapters.start=.*is a file; expected a run"),
        ("data.shards", ["{}/nowhere"], "nowhere: no such folder of shards$"),
        ("data.shards", ["{}/a,{}/b"], r"several folders are written as data.shards=\[A,B\]"),
        ("data.shards", ["{}/pairs.jsonl"], "is a file, .*editcaption shards --input .*pairs.jsonl"),
        ("data.shards", ["{}/model"], "has no index.json"),
        ("data.held_out", ["{}/nowhere"], "data.held_out: .*nowhere: no such folder of shards$"),
        ("data.held_out", ["{}/a,{}/b"], r"several folders are written as data.held_out=\[A,B\]"),
        ("data.prompt", "{}/nowhere.yaml", "data.prompt=.*no such file"),
        ("reference.file", "{}/nowhere.jsonl", "does not exist: write it with editcaption log-probs"),
        ("reference.checkpoint", "{}/nowhere", "reference.checkpoint=.*no such folder"),
        ("training.output", "{}/pairs.jsonl", "training.output=.*is a file: name a folder"),
        ("training.output", "{}/pairs.jsonl/run", "pairs.jsonl is a file, so no folder can be made in it"),
    ],
)
def test_each_mistake_has_its_sentence(job, tmp_path, name, value, words):
    *sections, field = name.split(".")
    value = [item.format(*[tmp_path] * 2) for item in value] if isinstance(value, list) else value.format(tmp_path)
    setattr(reduce(getattr, sections, job), field, value)
    with pytest.raises(ValueError, match=words) as error:
        check_paths(job)
    assert "\n" not in str(error.value)
