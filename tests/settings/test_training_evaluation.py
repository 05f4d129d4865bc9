"""What cannot be held out or looked at is refused by its settings alone."""

import pytest

from editcaption_mega.settings import SettingsError, load_settings
from editcaption_mega.settings.dpo import DPOSettings

GOOD = """
model: {folder: models/x}
data: {shards: [data/a], held_out_share: 0.01}
training: {output: runs/x, steps: 10, precision: fp32}
evaluation: {every: 50, patience: 3}
checkpoint: {every: 100, keep_best: true}
"""


@pytest.fixture
def good(tmp_path):
    path = tmp_path / "job.yaml"
    path.write_text(GOOD)
    return path


def test_what_fits_is_read(good):
    settings = load_settings(good, ["data.held_out_share=0", "data.held_out=[data/b]"])
    assert settings.data.held_out == ["data/b"] and settings.data.holds_out
    assert settings.evaluation.metric == "held_out/loss" and settings.checkpoint.keep_best


@pytest.mark.parametrize(
    "override, words",
    [
        ("data.held_out=[data/b]", "held_out_share=0.01 are two ways to hold pairs out: leave one"),
        ("data.held_out_share=1", r"data.held_out_share=1.0 must lie in \[0, 1\)"),
        ("data.held_out_share=-0.1", r"data.held_out_share=-0.1 must lie in \[0, 1\)"),
        ("data.held_out_share=nan", "data.held_out_share=nan is no number"),
        ("data.held_out_seed=-1", "data.held_out_seed=-1"),
        ("data.held_out_share=0", "evaluation.every=50 and no pairs are held out: name folders .*data.held_out"),
        ("evaluation.every=-1", "evaluation.every=-1"),
        ("evaluation.patience=-1", "evaluation.patience=-1"),
        ("evaluation.every=0", "evaluation.patience=3 goes by evaluations, and evaluation.every is 0"),
        ("evaluation.metric=loss", "evaluation.metric=loss is no metric of held-out pairs"),
        ("evaluation.every=30", "checkpoint.every=100 is no multiple of evaluation.every=30"),
    ],
)
def test_each_mistake_has_its_sentence(good, override, words):
    with pytest.raises(SettingsError, match=words):
        load_settings(good, [override])


def test_a_seed_without_a_share_is_refused(good):
    with pytest.raises(SettingsError, match="data.held_out_seed=3 has a meaning with data.held_out_share only"):
        load_settings(good, ["data.held_out_share=0", "data.held_out=[data/b]", "data.held_out_seed=3"])


def test_keeping_the_best_needs_evaluations(good):
    with pytest.raises(SettingsError, match="checkpoint.keep_best=true goes by evaluations"):
        load_settings(good, ["evaluation.every=0", "evaluation.patience=0"])


def test_a_reference_of_all_pairs_is_not_cut(good):
    with pytest.raises(SettingsError, match="reference.file=ref.jsonl is of all pairs of data.shards, and"):
        load_settings(good, ["reference.file=ref.jsonl"], DPOSettings)
    cut = ["reference.file=ref.jsonl", "data.held_out_share=0", "data.held_out=[data/b]"]
    assert load_settings(good, cut, DPOSettings).reference.file == "ref.jsonl"
