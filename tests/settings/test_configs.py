"""Every file in configs/ loads as its command would load it, and settings name what the code has."""

import dataclasses
import random
import re
import types

import pytest
import torch
import yaml

from editcaption_mega.kernels.preference_losses import PreferenceLossConfig, pair_losses
from editcaption_mega.settings import (
    CaptionSettings,
    DPOSettings,
    EvaluationSettings,
    JobSettings,
    PreferenceSettings,
    ScoreSettings,
    load_settings,
)
from editcaption_mega.settings.losses import LOSSES
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
        # How a stage's layers are divided further depends on what a step holds; the ranks are the same for both.
        of_stages = ("virtual_pipeline_model_parallel_size", "layers_per_chunk", "delayed_weight_gradients")
        chunks = dict.fromkeys(of_stages)
        same = [dataclasses.replace(job.parallel, **chunks) for job in (sft, settings)]
        assert same[0] == same[1], "one division over ranks per model size, for both stages"


def test_every_number_of_a_loss_can_be_set():
    of_the_loss, settings = dataclasses.fields(PreferenceLossConfig), PreferenceSettings()
    assert len(of_the_loss) >= 5
    assert {part.name: getattr(settings, part.name) for part in of_the_loss} == dataclasses.asdict(
        PreferenceLossConfig()
    )


def smoothing_is_refused(make) -> bool:
    try:
        make()
    except ValueError as error:
        assert "label_smoothing=0.1 has no meaning for" in str(error)
        return True
    return False


@pytest.mark.parametrize("loss", LOSSES)
def test_smoothing_is_refused_where_it_would_change_nothing(loss):
    """By the formula itself, so that a loss which ignores it cannot pass it over."""
    smoothed, plain = (
        types.SimpleNamespace(
            shape=LOSSES[loss].shape, per_token=False, beta=0.5, margin=0.0, nll_weight=0.0, label_smoothing=s
        )
        for s in (0.1, 0.0)
    )
    sums, reference = torch.tensor([[-3.0, -4.0], [-2.0, -1.0]], dtype=torch.float64), torch.zeros(2, 2)
    lengths = torch.ones(2, 2)
    losses = [pair_losses(config, sums, reference, lengths, None).loss for config in (smoothed, plain)]
    ignored = torch.equal(*losses)
    settings = PreferenceSettings(loss=loss, label_smoothing=0.1)
    assert smoothing_is_refused(settings.validate) == ignored
    assert smoothing_is_refused(lambda: PreferenceLossConfig(loss, label_smoothing=0.1)) == ignored


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


@pytest.mark.parametrize(
    ("pattern", "kind"), [("caption_*.yaml", CaptionSettings), ("score_*.yaml", ScoreSettings)], ids=str
)
def test_configs_of_data_construction_load(pattern, kind):
    for name in names(pattern):
        settings = load_settings(CONFIGS / name, [], kind)
        assert settings.server.program == "vllm" and settings.output.startswith("runs/")
