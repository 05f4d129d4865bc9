"""Layouts that are listed for other numbers of GPUs run there, and fit when they are executed."""

import pytest

from editcaption_mega.model.build import check_layout
from editcaption_mega.planning.layouts.fit import rows_of
from editcaption_mega.planning.layouts.modes import executed_plan
from tests.helpers import ROOT

from .gpu_counts import Listed, listed

ENTRIES = list(listed())


def name(entry: Listed) -> str:
    return f"{entry.model}-{entry.gpus}x{entry.memory}"


@pytest.mark.parametrize("entry", ENTRIES, ids=name)
def test_a_listed_layout_is_one_that_model_ranks_and_batch_allow(entry):
    assert entry.why
    for kind in ("sft", "dpo"):
        job = entry.job(kind)
        check_layout(job.architecture, job.settings.parallel)
        assert rows_of(job.settings, job.architecture, job.workload, job.world_size).micro_batches


def test_the_page_has_every_listed_layout():
    page = (ROOT / "docs/gpu_counts.md").read_text(encoding="utf-8")
    lines = [line for line in page.splitlines() if line.startswith(tuple(f"| {entry.model} |" for entry in ENTRIES))]
    assert len(lines) == len(ENTRIES) > 0
    for entry, line in zip(ENTRIES, lines, strict=True):
        assert f"| {entry.gpus} of {entry.memory} GB | {f'`{entry.add}`' if entry.add else 'none'} |" in line
        assert entry.why in line


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["sft", "dpo"])
@pytest.mark.parametrize("entry", ENTRIES, ids=name)
def test_a_listed_layout_fits_when_it_is_executed(entry, kind):
    job = entry.job(kind)
    assert executed_plan(job, job.settings).fits
