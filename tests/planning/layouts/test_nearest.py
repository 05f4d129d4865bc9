"""What does not fit is said with the stage, the rank, and the settings that would fit."""

from types import SimpleNamespace

from editcaption_mega.planning.layouts.fit import GIB, Fit, Rows, StageMemory
from editcaption_mega.planning.layouts.nearest import does_not_fit
from editcaption_mega.settings import load_job
from tests.helpers import ROOT


def fit_of(settings, *needed: float) -> Fit:
    """A fit whose stages need so many GiB."""
    stages = tuple(StageMemory(gib * GIB, 0, 0, 0) for gib in needed)
    time = SimpleNamespace(seconds=1.5)
    return Fit(settings, 64, (9,) * len(needed), Rows(8, 1, 2672, 1.0), stages, time, 80.0)


def test_the_sentence_has_the_stage_the_rank_and_the_changes():
    given = load_job(ROOT / "configs/sft_qwen3_vl_32b.yaml", ["model.recompute=none", "data.sequence_length=8192"])
    better = load_job(ROOT / "configs/sft_qwen3_vl_32b.yaml", ["model.recompute=full", "data.sequence_length=2672"])
    sentence = does_not_fit(fit_of(given, 70, 95.5, 60, 60), fit_of(better, 40, 60, 40, 40))
    assert "stage 1 (rank 16) needs 95.5 GiB, 15.5 more than the 80.0" in sentence
    assert "model.recompute=full data.sequence_length=2672" in sentence
    assert "25 % of the memory free" in sentence


def test_where_no_layout_fits_the_sentence_says_so():
    given = load_job(ROOT / "configs/sft_qwen3_vl_32b.yaml", [])
    assert "no layout of 64 of these GPUs fits" in does_not_fit(fit_of(given, 95), None)
