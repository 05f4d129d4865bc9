"""What a finished run says: commands that parse."""

import shlex

import pytest

from editcaption_mega.commands import megatron_to_hf
from editcaption_mega.settings import JobSettings
from editcaption_mega.training.next_commands import next_commands


def lines(answers, program="launch/pretrain_sft.sh", output="runs/my sft"):
    settings = JobSettings()
    settings.model.folder, settings.training.output = "models/base", output
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("sys.argv", [program])
        return next_commands(settings, 160, answers)


def test_after_instructions_come_preferences():
    checkpoint, convert, train = lines("instruction")
    assert checkpoint == "the checkpoint is runs/my sft/checkpoints/step_00000160"
    assert "bash launch/train_dpo.sh CONFIG model.folder=models/base 'model.checkpoint=runs/my sft' " in train


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
