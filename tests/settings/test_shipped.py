"""The shipped configurations are found by name from any folder, and a file of the user's goes before them."""

from pathlib import Path

import pytest

from editcaption_mega.settings import (
    DPOSettings,
    EvaluationSettings,
    SettingsError,
    find_config,
    load_job,
    load_settings,
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
