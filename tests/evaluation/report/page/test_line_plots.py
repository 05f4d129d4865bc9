"""Curves lie on their axes, whatever their values."""

import math
import re

import pytest

from editcaption_mega.evaluation.report.page.line_plots import BOX, COLORS, DASHES, line_plot
from tests.helpers import ROOT


def points(text):
    return [tuple(map(float, point.split(","))) for point in text.split()]


def test_a_line_runs_from_corner_to_corner():
    plot = line_plot("t", {"up": [(step, step) for step in range(101)], "flat": [(0, 50), (100, 50)]})
    up, flat = plot.lines
    assert points(up.points)[0] == (0, BOX) and points(up.points)[-1] == (BOX, 0)
    assert {y for _, y in points(flat.points)} == {BOX / 2}
    assert plot.x_ticks[0] == (0, "0") and plot.x_ticks[-1] == (100, "100")
    assert plot.y_ticks[0] == (0, "0") and plot.y_ticks[-1] == (100, "100")
    assert up.last == pytest.approx((100 + 99 + 98) / 3), "a running mean of a fortieth of the line and one more"


def test_a_logarithmic_axis():
    plot = line_plot("t", {"loss": [(1, 10.0), (2, 1.0), (3, 0.1), (4, 0.0), (5, math.nan)]}, logarithmic=True)
    assert points(plot.lines[0].points) == [(0, 0), (BOX / 2, BOX / 2), (BOX, BOX)]
    assert [label for _, label in plot.y_ticks] == ["0.1", "0.2", "0.5", "1", "2", "5", "10"]


def test_long_curves_are_thinned_and_keep_their_mean():
    curve = [(step, (-1) ** step) for step in range(100_000)]
    (line,) = line_plot("t", {"a": curve}).lines
    assert len(line.points.split()) == 400 and line.last == pytest.approx(0)


@pytest.mark.parametrize("logarithmic", [False, True])
@pytest.mark.parametrize("curve", [[], [(1, math.inf)], [(1, 2.0)], [(1, 1e-12), (2, 2e-12)]])
def test_there_may_be_little_to_draw(curve, logarithmic):
    plot = line_plot("t", {"a": curve}, logarithmic=logarithmic)
    for line in plot.lines:
        assert all(0 <= x <= BOX and 0 <= y <= BOX for x, y in points(line.points)) and line.points
    assert len(plot.y_ticks) == len({label for _, label in plot.y_ticks})


def test_no_two_of_36_curves_look_alike_and_the_first_six_differ_without_color_too():
    lines = line_plot("t", {str(n): [(0, n), (1, n)] for n in range(COLORS * DASHES)}).lines
    assert len({(line.color, line.dash) for line in lines}) == len(lines) == 36
    assert len({line.dash for line in lines[:6]}) == len({line.color for line in lines[:6]}) == 6


def test_more_curves_than_looks_are_said_to_be_so():
    plots = [line_plot("t", {str(n): [(0, n), (1, n)] for n in range(count)}) for count in (36, 37)]
    assert [plot.looks_repeat for plot in plots] == [False, True]


def test_the_style_sheet_has_every_color_in_both_schemes_and_every_dash():
    style = (ROOT / "editcaption_mega/evaluation/report/templates/report_panels.css").read_text(encoding="utf-8")
    colors = re.findall(r"--line-(\d): (#\w{6});", style)
    assert sorted(number for number, _ in colors) == sorted(2 * [str(n) for n in range(COLORS)])
    assert len({color for _, color in colors}) == 2 * COLORS
    dashes = dict(re.findall(r"\.dash-(\d) \{ stroke-dasharray: ([\d ]+);", style))
    assert sorted(dashes) == [str(n) for n in range(1, DASHES)] and len(set(dashes.values())) == DASHES - 1
