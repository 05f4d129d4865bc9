"""What a finished run says: commands that parse."""

import shlex

import pytest

from editcaption_mega.commands import megatron_to_hf
from editcaption_mega.settings import DPOSettings, JobSettings, load_settings
from editcaption_mega.training.next_commands import next_commands


def lines(answers, program="launch/pretrain_sft.sh", output="runs/my sft", rank=0):
    settings = JobSettings()
    settings.model.adapters.rank = rank
    settings.model.folder, settings.training.output = "models/base", output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [program])
        return next_commands(settings, 160, answers)


def test_after_instructions_come_preferences():
    checkpoint, convert, train = lines("instruction")
    assert checkpoint == "the checkpoint is runs/my sft/checkpoints/step_00000160"
    assert "bash launch/train_dpo.sh CONFIG model.folder=models/base 'model.checkpoint=runs/my sft' " in train


def test_preferences_go_on_from_the_weights_with_their_adapters():
    """Not from a checkpoint that the configuration names."""
    *_, merged, adapter, train = lines("instruction", "editcaption train-sft", rank=4)
    assert merged.endswith("--output 'runs/my sft-hf'") and adapter.endswith("--output 'runs/my sft-adapter' --adapter")
    words = shlex.split(train.split(": ")[1])
    assert words[:5] == ["editcaption", "train-dpo", "CONFIG", "model.folder=runs/my sft-hf", "model.checkpoint="]
    settings = load_settings("dpo_qwen3_vl_2b", words[3:5], DPOSettings)
    assert (settings.model.folder, settings.model.checkpoint) == ("runs/my sft-hf", "")


def test_after_preferences_comes_an_evaluation():
    *_, evaluate = lines("preference", output="runs/dpo")
    assert "python tools/evaluate.py run CONFIG, with runs/dpo-hf as the folder of a candidate" in evaluate


def test_the_conversion_can_be_given_as_it_stands(monkeypatch):
    called = []
    monkeypatch.setattr("editcaption_mega.conversion.convert.megatron_to_hf", lambda *a, **_: called.append(a))
    words = shlex.split(lines("instruction")[1].split("folder: ")[1])
    assert words[:2] == ["python", "tools/megatron_to_hf.py"]
    megatron_to_hf.main(words[2:])
    assert [str(path) for path in called[0]] == ["runs/my sft", "runs/my sft-hf"]


def test_who_installed_the_package_is_told_its_command():
    said = "\n".join(lines("instruction", "editcaption train-sft") + lines("preference", "editcaption train-dpo"))
    assert "editcaption convert megatron-to-hf --checkpoint" in said and "tools/" not in said and "launch/" not in said
