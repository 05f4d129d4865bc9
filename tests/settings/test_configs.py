"""Every file in configs/ loads as its command would load it, and settings name what the code has."""

import dataclasses
import random
import re

import pytest
import yaml

from editcaption_mega.kernels.preference_losses import LOSSES as KERNEL_LOSSES
from editcaption_mega.kernels.preference_losses import PreferenceLossConfig
from editcaption_mega.settings import DPOSettings, EvaluationSettings, JobSettings, PreferenceSettings, load_settings
from editcaption_mega.settings.dpo import LOSSES, WITHOUT_REFERENCE
from tests.helpers import ROOT

CONFIGS = ROOT / "configs"


def names(pattern):
    found = sorted(path.name for path in CONFIGS.glob(pattern))
    assert found
    return found


@pytest.mark.parametrize("name", names("sft_*.yaml"))
def test_sft_configs_load(name):
    settings = load_settings(CONFIGS / name, [], JobSettings)
    assert settings.training.output and settings.data.shards


@pytest.mark.parametrize("name", names("dpo_*.yaml"))
def test_dpo_configs_load(name):
    settings = load_settings(CONFIGS / name, [], DPOSettings)
    assert settings.preference.loss in LOSSES and settings.data.shards
    if "demo" not in name:
        sft = load_settings(CONFIGS / name.replace("dpo", "sft"), [], JobSettings)
        assert sft.parallel == settings.parallel, "one layout per model size, for both stages"


def test_settings_name_the_losses_that_the_kernels_have():
    """settings/ must not import kernels/, so the names are there twice."""
    assert tuple(KERNEL_LOSSES) == LOSSES


def test_every_number_of_a_loss_can_be_set():
    of_the_loss, settings = dataclasses.fields(PreferenceLossConfig), PreferenceSettings()
    assert len(of_the_loss) >= 5
    assert {part.name: getattr(settings, part.name) for part in of_the_loss} == dataclasses.asdict(
        PreferenceLossConfig()
    )
    assert tuple(name for name, form in KERNEL_LOSSES.items() if form.reference_free) == WITHOUT_REFERENCE


def test_the_demo_trains_on_the_world_that_it_is_judged_on_as_an_erring_captioner_describes_it():
    plain, captioned = (yaml.safe_load((CONFIGS / f"demo_world{name}.yaml").read_text()) for name in ("", "_captioned"))
    mistakes = captioned.pop("caption_mistakes")
    assert captioned == plain
    assert set(mistakes) == {"orientation", "viewpoint", "detail"} and all(0 < rate < 1 for rate in mistakes.values())


@pytest.mark.parametrize("name", names("eval_*.yaml"))
def test_evaluation_configs_load(name):
    settings = load_settings(CONFIGS / name, [], EvaluationSettings)
    lists = [benchmark.ids for benchmark in settings.benchmarks if benchmark.ids]
    assert settings.judges and all((CONFIGS.parent / path).is_file() for path in lists)


@pytest.mark.parametrize("path", sorted((CONFIGS / "benchmarks").iterdir()), ids=lambda path: path.stem)
def test_lists_of_ids_are_those_of_their_seed(path):
    lines = path.read_text().splitlines()
    ids = [line for line in lines if not line.startswith("#")]
    seed, end, count = map(int, re.search(r"Random\((\d+)\).sample\(range\(1, (\d+)\), (\d+)\)", lines[1]).groups())
    rows = sorted(random.Random(seed).sample(range(1, end), count))
    assert [int(one.rpartition("-")[2]) for one in ids] == rows
