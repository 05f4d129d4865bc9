"""The best layouts of a search are executed, and those that do not fit then are left out."""

from dataclasses import replace

import pytest

from editcaption_mega.planning.layouts.fit import fit
from editcaption_mega.planning.layouts.fit_text import Executed
from editcaption_mega.planning.layouts.modes import best_layouts, executed_answer, executed_plan
from editcaption_mega.planning.layouts.search import HEADROOM

from .small_job import NEEDED_GIB, small_job

MARGIN = 0.05  # between a fit and its dry run


def test_a_search_shows_what_fits_and_what_its_execution_says():
    answer = best_layouts(small_job(1.12 * NEEDED_GIB), 2)
    assert not answer.problem and len(answer.json["layouts"]) == 2
    for layout in answer.json["layouts"]:
        executed = layout["dry_run"]
        assert executed["fits"] and layout["headroom"] >= HEADROOM
        assert executed["seconds"] == pytest.approx(layout["step"]["seconds"], rel=MARGIN)
        needed = max(stage["needed_bytes"] for stage in layout["stages"])
        assert executed["needed_bytes"] == pytest.approx(needed, rel=MARGIN)
    seconds = [layout["dry_run"]["seconds"] for layout in answer.json["layouts"]]
    assert seconds == sorted(seconds)
    assert [line.split(":")[0].strip() for line in answer.lines[1:]].count("executed") == 2
    # Best of all is the given one: nothing is recomputed, and no rank communicates within a layer.
    assert "(as given)" in "".join(answer.lines)


def test_a_layout_that_does_not_fit_when_it_is_executed_is_left_out():
    job = small_job(1.12 * NEEDED_GIB)
    with job.pieces() as pieces:
        by_fit = fit(pieces, job.settings, job.world_size)
    plan = executed_plan(job, job.settings)
    answer = executed_answer(job, None, [Executed(by_fit, plan), Executed(by_fit, replace(plan, memory_gib=20.0))])
    assert len(answer.json["layouts"]) == len(answer.json["dropped"]) == 1
    (line,) = [line for line in answer.lines if "left out" in line]
    over = plan.needed(plan.records[0]) / 2**30 - 20
    assert f"{over:.1f} more than the 20.0" in line and "every rank" in line
    nothing = executed_answer(job, None, [Executed(by_fit, replace(plan, memory_gib=20.0))])
    assert "no layout of 2 of these GPUs" in nothing.problem
