"""Curves as numbers: lines of points in a box of BOX units a side, y downward. The template draws them."""

import math
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import batched
from statistics import fmean

from .plots import axis, nice_step

Axis = tuple[Callable[[float], float], tuple[tuple[float, str], ...]]

BOX = 1000
_MOST_POINTS = 400  # of a line; more are averaged in groups
_SMOOTHED_OVER = 40  # a part of the line of this share is averaged: 1 / 40

COLORS, DASHES = 6, 6  # of lines, as report_panels.css has them; the first six curves differ in both

Curve = Sequence[tuple[float, float]]


@dataclass(frozen=True)
class Line:
    """points, smooth: "x,y x,y .." as an SVG polyline takes them, as it is and as a running mean. color, dash: which of
    COLORS and of DASHES, told apart also by who sees no colors."""

    label: str
    points: str
    smooth: str
    last: float  # of the running mean
    color: int
    dash: int


@dataclass(frozen=True)
class LinePlot:
    """Ticks are (percent of the axis, label)."""

    title: str
    lines: tuple[Line, ...]
    x_ticks: tuple[tuple[float, str], ...]
    y_ticks: tuple[tuple[float, str], ...]

    @property
    def looks_repeat(self) -> bool:
        return len({(line.color, line.dash) for line in self.lines}) < len(self.lines)


def line_plot(
    title: str, curves: Mapping[str, Curve], *, logarithmic: bool = False, exact: Collection[str] = ()
) -> LinePlot:
    """Every curve over the optimizer's steps, on shared axes. Values that are no finite number (or, on a logarithmic
    axis, not above 0) are left out, and so is a curve without any other. exact: those without a running mean."""
    drawn = {
        label: [(x, y) for x, y in curve if math.isfinite(y) and (y > 0 or not logarithmic)]
        for label, curve in curves.items()
    }
    drawn = {label: _thinned(curve) for label, curve in drawn.items() if curve}
    xs = [x for curve in drawn.values() for x, _ in curve]
    ys = [y for curve in drawn.values() for _, y in curve]
    first, last = (min(xs), max(xs)) if xs else (0, 1)
    across, x_ticks = axis(first, max(last, first + 1), _count_step(max(last - first, 1)), lambda x: f"{x:,.0f}")
    up, y_ticks = _log_axis(ys) if logarithmic else _axis(ys)

    def polyline(curve: Curve) -> str:
        points = [f"{across(x) * BOX / 100:g},{BOX - up(y) * BOX / 100:g}" for x, y in curve]
        return " ".join(points if len(points) > 1 else 2 * points)  # a line of one point is drawn as a dot

    lines = []
    for number, (label, curve) in enumerate(drawn.items()):
        smooth = curve if label in exact else _running_mean(curve)
        color, dash = number % COLORS, (number + number // COLORS) % DASHES
        lines.append(Line(label, polyline(curve), polyline(smooth), smooth[-1][1], color, dash))
    return LinePlot(title, tuple(lines), x_ticks, y_ticks)


def _thinned(curve: Curve) -> Curve:
    size = math.ceil(len(curve) / _MOST_POINTS)
    return [(fmean(x for x, _ in group), fmean(y for _, y in group)) for group in batched(curve, size)]


def _running_mean(curve: Curve) -> Curve:
    window = max(1, len(curve) // _SMOOTHED_OVER)
    return [(x, fmean(y for _, y in curve[max(0, i - window) : i + 1])) for i, (x, _) in enumerate(curve)]


def _count_step(reach: float) -> float:
    return max(1.0, nice_step(reach / 5))


def _axis(values: Sequence[float]) -> Axis:
    low, high = min(values, default=0.0), max(values, default=1.0)
    low, high = min(low, 0.0), max(high, 0.0)
    high = max(high, low + 1e-3)
    return axis(low, high, nice_step((high - low) / 5), lambda y: f"{y:g}")


def _log_axis(values: Sequence[float]) -> Axis:
    """Ticks at 1, 2, 5 times the powers of ten."""
    low, high = math.log10(min(values, default=0.1)), math.log10(max(values, default=1.0))
    high = high if high > low else low + 1e-3
    place, _ = axis(low, high, 1.0, str)

    def place_value(value: float) -> float:
        return place(math.log10(value))

    powers = range(math.floor(low), math.floor(high) + 1)
    at = [n * 10.0**power for power in powers for n in (1, 2, 5)]
    ticks = [value for value in at if low - 1e-9 <= math.log10(value) <= high + 1e-9]
    return place_value, tuple((place_value(value), f"{value:g}") for value in ticks)
