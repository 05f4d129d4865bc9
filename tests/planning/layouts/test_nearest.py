"""What does not fit is said with the stage, the rank, and settings that would fit, which do when they are executed."""

from types import SimpleNamespace

import pytest

from editcaption_mega.model.released import released_architecture
from editcaption_mega.planning.layouts.choices import overrides
from editcaption_mega.planning.layouts.fit import GIB, Fit, Rows, StageMemory
from editcaption_mega.planning.layouts.fit_text import _room
from editcaption_mega.planning.layouts.modes import PlannedJob, executed_plan, quick_fit
from editcaption_mega.planning.layouts.nearest import does_not_fit, nearest
from editcaption_mega.planning.layouts.search import Limits
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.workload import Workload
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

from .given_pieces import GivenPieces
from .small_job import NEEDED_GIB, small_job

SHIPPED = load_job(ROOT / "configs/sft_qwen3_vl_2b.yaml", [])


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


def test_memory_that_is_not_there_is_no_share_that_is_free():
    assert _room(fit_of(SHIPPED, 40, 60).headroom) == "25 % of the memory free"
    assert _room(fit_of(SHIPPED, 40, 191.2).headroom) == "2.39 x the memory needed"


def test_where_no_layout_fits_the_sentence_says_so():
    given = load_job(ROOT / "configs/sft_qwen3_vl_32b.yaml", [])
    assert "no layout of 64 of these GPUs fits" in does_not_fit(fit_of(given, 95), None)


def test_the_nearest_layout_recomputes_and_fits_when_it_is_executed():
    job = small_job(0.97 * NEEDED_GIB)
    answer = quick_fit(job)
    changes = answer.problem.partition("the nearest layout that fits: ")[2].partition(" (step")[0].split()
    assert changes and all(change.startswith("model.recompute") for change in changes), answer.problem
    settings = load_job(ROOT / "configs/sft_qwen3_vl_2b.yaml", [*overrides(job.settings, SHIPPED), *changes])
    assert executed_plan(job, settings).fits


def test_where_recomputation_is_not_enough_as_few_sizes_as_needed_change():
    changes = ["parallel.expert_model_parallel_size=2", "parallel.delayed_weight_gradients=null"]
    settings = load_job(ROOT / "configs/sft_qwen3_vl_235b_a22b.yaml", changes)
    architecture, hardware = released_architecture("Qwen3-VL-235B-A22B"), load_hardware("h100")
    with GivenPieces(settings, architecture, Workload(), hardware) as pieces:
        close = nearest(pieces, settings, Limits(256, 79.1))
    changed = [change for change in overrides(close.settings, settings) if not change.startswith("model.recompute")]
    assert len(changed) == 1 and changed[0].startswith("parallel.expert_model_parallel_size=")
    assert close.headroom >= 0.08


@pytest.mark.slow
@pytest.mark.parametrize("config, gpus", [("sft_qwen3_vl_32b", 16), ("dpo_qwen3_vl_32b", 16)])
def test_the_nearest_layout_of_a_shipped_configuration_on_fewer_gpus_fits(config, gpus):
    settings, hardware = load_job(ROOT / f"configs/{config}.yaml", []), load_hardware("h100")
    job = PlannedJob(settings, released_architecture("Qwen3-VL-32B"), Workload(), gpus, hardware, 60.0)
    answer = quick_fit(job)
    changes = answer.problem.partition("the nearest layout that fits: ")[2].partition(" (step")[0].split()
    assert changes, answer.problem
    assert executed_plan(job, load_job(ROOT / f"configs/{config}.yaml", changes)).fits
