"""The shipped configurations are found by name from any folder, and a file of the user's goes before them."""

from pathlib import Path

import pytest

from editcaption_mega.settings import (
    CaptionSettings,
    DPOSettings,
    EvaluationSettings,
    JobSettings,
    ScoreSettings,
    SettingsError,
    find_config,
    load_job,
    load_settings,
    refuse_sft,
    shipped_folder,
)
from editcaption_mega.settings.shipped import with_shipped_files
from tests.helpers import ROOT

NAMES = sorted(path.stem for path in (ROOT / "configs").glob("*_qwen3_vl*.yaml"))


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)


def test_by_name_in_every_form():
    assert shipped_folder() == ROOT / "configs" and "sft_qwen3_vl_2b" in NAMES
    for name in NAMES:
        for form in (name, f"{name}.yaml", f"configs/{name}.yaml"):
            assert find_config(form) == ROOT / f"configs/{name}.yaml"
    assert load_settings("sft_qwen3_vl_2b") == load_settings(ROOT / "configs/sft_qwen3_vl_2b.yaml")
    assert isinstance(load_job("dpo_qwen3_vl_2b"), DPOSettings)


def test_the_users_own_file_goes_first(tmp_path):
    (tmp_path / "configs").mkdir()
    for own in (Path("sft_demo"), Path("configs/sft_demo.yaml")):
        assert find_config(own) == ROOT / "configs/sft_demo.yaml"
        own.write_text("training: {steps: 7}\n")
        assert find_config(own) == own


@pytest.mark.parametrize("name", ["sft_nothing", "../configs/sft_demo.yaml", "/sft_demo", "benchmarks", ""])
def test_what_is_none(name):
    assert not find_config(name).is_file()
    with pytest.raises(SettingsError):
        load_settings(name)


def test_files_that_settings_name():
    demo = load_settings("sft_demo")
    assert demo.data.prompt == str(ROOT / "configs/demo_prompt.yaml")
    benchmarks = load_settings("eval_qwen3_vl", None, EvaluationSettings).benchmarks
    files = [benchmark.ids for benchmark in benchmarks if benchmark.ids]
    assert files and all(Path(file).is_file() for file in files)
    kept = {"a": ["configs/nothing.yaml", 1, None], "b": {"c": "data/x"}}
    assert with_shipped_files(kept) == kept


@pytest.mark.parametrize(
    ("kind", "name", "mend"),
    [
        (JobSettings, "sft_qwen3_vl_2", "did you mean sft_qwen3_vl_2b, which is shipped?"),
        (JobSettings, "configs/sft_qwen3_vl_2.yaml", "did you mean sft_qwen3_vl_2b, which is shipped?"),
        (JobSettings, "sft_qwen3_vl_235b", "did you mean sft_qwen3_vl_235b_a22b, which is shipped?"),
        (JobSettings, "sft_qwen3vl_8b", "did you mean sft_qwen3_vl_8b, which is shipped?"),
        (JobSettings, "dpo_qwen3_vl_2", "did you mean dpo_qwen3_vl_2b, which is shipped?"),
        (DPOSettings, "dpo_qwen_vl_32b", "did you mean dpo_qwen3_vl_32b, which is shipped?"),
        (JobSettings, "nothere", "name a YAML file such as configs/sft_demo.yaml"),
        (JobSettings, "sft_", "name a YAML file such as configs/sft_demo.yaml"),
        (DPOSettings, "nothere", "name a YAML file such as configs/dpo_demo.yaml"),
        (EvaluationSettings, "nothere", "name a YAML file such as configs/eval_demo.yaml"),
        (CaptionSettings, "nothere.yaml", "name a YAML file such as configs/caption_qwen3_vl.yaml"),
        (ScoreSettings, "nothere", "name a YAML file such as configs/score_editscore.yaml"),
    ],
)
def test_what_was_meant_by_a_name_that_is_none(kind, name, mend):
    with pytest.raises(SettingsError) as refused:
        load_settings(name, None, kind)
    assert str(refused.value) == f"{name} does not exist: {mend}"
    if "such as " in mend:
        load_settings(mend.split("such as ")[1], None, kind)


def test_a_dpo_configuration_is_none_of_sft_and_the_other_way_round(tmp_path):
    for shipped in (name for name in NAMES if name.startswith("dpo_")):
        with pytest.raises(SettingsError, match=r"'preference': of a DPO configuration, which editcaption train-dpo"):
            load_settings(shipped)
        refuse_sft(load_settings(shipped, None, DPOSettings), shipped)
    taken = load_settings("sft_qwen3_vl_2b", None, DPOSettings)
    with pytest.raises(SettingsError, match="sft_qwen3_vl_2b has neither a section preference: nor reference:, so it"):
        refuse_sft(taken, "sft_qwen3_vl_2b")
    refuse_sft(taken, "sft_qwen3_vl_2b", ["preference.loss=sigmoid"])
    refuse_sft(load_settings("sft_qwen3_vl_2b", ["preference.beta=0.2"], DPOSettings), "sft_qwen3_vl_2b")
    (tmp_path / "own.yaml").write_text((ROOT / "configs/sft_qwen3_vl_2b.yaml").read_text())  # with the defaults of DPO
    refuse_sft(load_settings(tmp_path / "own.yaml", None, DPOSettings), tmp_path / "own.yaml")
