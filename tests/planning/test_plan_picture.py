"""The picture of a plan shows what its text says, each kind of memory in one color."""

import pytest
from PIL import Image

from editcaption_mega.planning import plan_picture
from editcaption_mega.planning.plan_picture import draw_plan, memory_of_roles, memory_over_step

from .given_plan import GIB, given_plan, given_record


@pytest.fixture
def drawn(monkeypatch):
    """What the charts of memory are given."""
    seen = {}
    for name in ("draw_memory", "draw_memory_timeline"):
        original = getattr(plan_picture, name)

        def draw(values, title, *, limit_bytes, name=name, original=original):
            seen[name] = values
            return original(values, title, limit_bytes=limit_bytes)

        monkeypatch.setattr(plan_picture, name, draw)
    return seen


def test_a_bar_is_as_long_as_what_its_rank_needs():
    plan = given_plan(given_record(0, start_peak=30 * GIB), given_record(1))
    for record, sizes in zip(plan.records, memory_of_roles(plan).values(), strict=True):
        assert sum(sizes.values()) == pytest.approx(plan.needed(record))


def test_the_highest_point_of_the_step_is_the_worst_rank_s_peak():
    plan = given_plan(given_record(0), given_record(1, checkpoint_peak=30 * GIB))
    record = plan.records[1]
    highest = max(sum(sizes.values()) for _, sizes in memory_over_step(plan))
    assert plan.worst == 1 and highest == pytest.approx(record.peak.total + plan.reserved(record))


def test_both_charts_have_the_same_kinds_in_one_order_and_none_that_is_nowhere(drawn):
    """Colors go by that order."""
    record = given_record(0)
    record.peak.by_kind["reference weights"] = 3 * GIB
    record.peak.total += 3 * GIB
    draw_plan(given_plan(record, given_record(1)))
    orders = {tuple(sizes) for sizes in drawn["draw_memory"].values()}
    orders |= {tuple(sizes) for _, sizes in drawn["draw_memory_timeline"]}
    expected = ("reserve", "weights", "gradients", "optimizer", "reference weights", "attention", "inputs")
    assert orders == {expected}


def test_what_is_drawn_is_a_picture(tmp_path):
    draw_plan(given_plan()).save(tmp_path / "plan.png")
    with Image.open(tmp_path / "plan.png") as image:
        assert image.mode == "RGB" and len(image.getcolors(1 << 20)) > 5
