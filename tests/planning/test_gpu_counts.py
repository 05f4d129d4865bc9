"""Layouts that are listed for other numbers of GPUs run there, and are as fast as listed when they are executed."""

import math

import pytest

from editcaption_mega.model.layout_check import check_layout
from editcaption_mega.planning.layouts.choices import groups_that_run
from editcaption_mega.planning.layouts.fit import rows_of
from editcaption_mega.planning.layouts.search import HEADROOM
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

from .choose_layouts import executed, why_nothing_fits
from .gpu_counts import GPUS, LAYOUTS, Listed, job_changes, layouts_text, listed, page

ENTRIES = list(listed())
FITTING = [entry for entry in ENTRIES if entry.add is not None]


@pytest.mark.parametrize("entry", FITTING, ids=lambda entry: entry.name)
def test_a_listed_layout_is_one_that_model_ranks_and_batch_allow(entry):
    job = entry.job()
    check_layout(job.architecture, job.settings.parallel)
    assert rows_of(job.settings, job.architecture, job.workload, job.world_size).micro_batches
    assert entry.why and entry.seconds > 0 and HEADROOM <= entry.free < 1
    assert job.settings.training.global_batch_size >= entry.gpus
    changed = load_job(entry.config, job_changes(entry))
    assert job.settings.optimizer == changed.optimizer
    assert job.settings.training.global_batch_size == changed.training.global_batch_size


def test_the_learning_rate_grows_with_the_root_of_the_batch():
    shipped = load_job(Listed("2b", 8, 80, "dpo").config)
    assert shipped.training.global_batch_size == 64
    assert job_changes(Listed("2b", 64, 80, "dpo")) == []
    job = Listed("2b", 256, 80, "dpo").job(job_changes(Listed("2b", 256, 80, "dpo")))
    assert job.settings.training.global_batch_size == 256
    assert job.settings.optimizer.learning_rate == pytest.approx(2 * shipped.optimizer.learning_rate, rel=0.01)
    assert job.settings.optimizer.min_learning_rate == pytest.approx(2 * shipped.optimizer.min_learning_rate, rel=0.01)


def test_where_the_states_alone_are_too_large_no_layout_is_listed():
    """4B on one GPU of 80 GB: 18 bytes for each of 4.4 billion parameters."""
    entry = Listed("4b", 1, 80, "sft")
    job = entry.job()
    assert groups_that_run(job.settings, job.architecture, 1, (1 - HEADROOM) * job.memory_gib) == []
    assert groups_that_run(job.settings, job.architecture, 1, math.inf)
    assert "at least 74 of 79 GiB" in why_nothing_fits(job)
    assert [each.add for each in ENTRIES if (each.model, each.gpus, each.memory) == ("4b", 1, 80)] == [None, None]


def test_the_page_shows_every_listed_layout():
    assert (ROOT / "docs/gpu_counts.md").read_text(encoding="utf-8") == page(ENTRIES)
    assert LAYOUTS.read_text(encoding="utf-8") == layouts_text(ENTRIES)
    assert {entry.gpus for entry in ENTRIES} <= set(GPUS)


@pytest.mark.slow
@pytest.mark.parametrize("entry", FITTING, ids=lambda entry: entry.name)
def test_a_listed_layout_is_as_fast_as_listed_when_it_is_executed(entry):
    made = executed(entry)
    assert made.seconds == pytest.approx(entry.seconds, rel=0.005)
    assert made.free == pytest.approx(entry.free, abs=0.005)
    assert made.free >= HEADROOM
