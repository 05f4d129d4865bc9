"""Interval plots as numbers: where each mark stands on its axis, in percent. The template draws them."""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace

from editcaption_mega.evaluation.report.numbers import Interval, Mean, ModelScores, Rate
from editcaption_mega.evaluation.rubric.opinions import WEIGHTED
from editcaption_mega.evaluation.rubric.paper_tables import same_name
from editcaption_mega.evaluation.stats.comparisons import Comparison


@dataclass(frozen=True)
class Mark:
    """One row of a plot. Positions are percent of the axis; None where there is nothing to draw."""

    label: str
    text: str
    detail: str
    at: float | None
    low: float | None = None
    high: float | None = None
    bounds: Interval | None = None
    paper: float | None = None
    title: str = ""


@dataclass(frozen=True)
class Plot:
    title: str
    marks: tuple[Mark, ...]
    ticks: tuple[tuple[float, str], ...]  # (percent, label)
    zero: float | None = None  # percent of a line to compare with


@dataclass(frozen=True)
class Heat:
    """Mean weighted score by edit type (rows) and model (columns)."""

    models: tuple[str, ...]
    rows: tuple[tuple[str, int, tuple[Mean | None, ...]], ...]  # (edit type, pairs, means)


def score_plot(title: str, means: dict[str, Mean], floor: float, paper: dict[str, float] | None = None) -> Plot:
    """Weighted scores, in the order given; `floor` begins the axis, 5 ends it. paper: model -> the paper's number."""
    place, ticks = axis(floor, 5.0, 0.5 if floor > 2.5 else 1.0, lambda v: f"{v:g}")
    marks = []
    for name, one in means.items():
        printed = next((value for paper_model, value in (paper or {}).items() if same_name(paper_model, name)), None)
        if one.value is None:
            marks.append(Mark(name, "–", f"all {one.unscored} unscored", None))
            continue
        title_ = f"{one.scored} scored"
        if one.unscored:
            title_ += f", {one.unscored} unscored: {one.bounds[0]:.3f} if they were 1, {one.bounds[1]:.3f} if 5"
        assert one.interval is not None, "there are scores"
        low, high = one.interval
        bounds = (place(one.bounds[0]), place(one.bounds[1])) if one.unscored else None
        marks.append(
            Mark(
                name, f"{one.value:.3f}", f"{low:.2f}–{high:.2f}", place(one.value), place(low), place(high),
                bounds, None if printed is None else place(printed), title_,
            )
        )  # fmt: skip
    return Plot(title, tuple(marks), ticks)


def share_plot(title: str, rates: dict[str, Rate], ceiling: float) -> Plot:
    """Shares of pairs in percent, in the order given; `ceiling` (a share) ends the axis."""
    place, ticks = axis(
        0.0,
        ceiling,
        0.5 if ceiling > 0.6 else 0.2 if ceiling > 0.25 else 0.1 if ceiling > 0.1 else 0.05,
        lambda v: f"{100 * v:g} %",
    )
    marks = []
    for name, one in rates.items():
        low, high = one.interval
        detail = f"{100 * low:.0f}–{100 * high:.0f}"
        title_ = f"{one.hits} of {one.total} pairs"
        at, ends = place(one.share), (place(low), place(high))
        marks.append(Mark(name, f"{100 * one.share:.1f} %", detail, at, *ends, title=title_))
    return Plot(title, tuple(marks), ticks)


def difference_plot(title: str, comparisons: Sequence[Comparison]) -> Plot:
    """Paired differences, the better model first, the largest on top; of models that share scored pairs."""
    turned = [_turned(one) for one in comparisons if one.interval is not None]
    intervals = [one.interval for one in turned if one.interval is not None]
    reach = max((max(map(abs, interval)) for interval in intervals), default=1.0) or 1.0
    least = min((low for low, _ in intervals), default=0.0)
    place, ticks = axis(min(0.0, least), reach, nice_step(reach / 4), lambda v: f"{v:+g}" if v else "0")
    marks = []
    for one in sorted(turned, key=lambda one: -(one.difference or 0.0)):
        assert one.difference is not None and one.interval is not None, "it has pairs"
        low, high = one.interval
        title_ = f"{one.pairs} pairs, permutation test p = {one.p:.2g}, {one.p_adjusted:.2g} after Holm's correction"
        detail = f"{low:+.2f} to {high:+.2f}" + ("" if one.apart else ", not settled")
        label, ends = f"{one.first} − {one.second}", (place(low), place(high))
        marks.append(Mark(label, f"{one.difference:+.3f}", detail, place(one.difference), *ends, title=title_))
    return Plot(title, tuple(marks), ticks, zero=place(0.0))


def heat(scores: dict[str, ModelScores]) -> Heat:
    kinds = sorted({kind for one in scores.values() for kind in one.by_edit_type})
    rows = []
    for kind in kinds:
        means = tuple(one.by_edit_type.get(kind) for one in scores.values())
        pairs = max(mean.scored + mean.unscored for mean in means if mean)
        rows.append((kind, pairs, means))
    return Heat(tuple(scores), tuple(rows))


def floor_of(scores: Iterable[ModelScores], printed: Iterable[float] = ()) -> float:
    """Where the axis of scores may begin: at the half step below everything that is drawn, at least 1."""
    lows = list(printed)
    for one in scores:
        for mean in (one.means[WEIGHTED], *one.by_category.values()):
            lows += [mean.interval[0], mean.bounds[0]] if mean.interval else []
    return max(1.0, math.floor(2 * min(lows, default=1.0) - 1e-9) / 2)


def _turned(one: Comparison) -> Comparison:
    assert one.difference is not None and one.interval is not None, "it has pairs"
    if one.difference >= 0:
        return one
    (low, high), difference = one.interval, -one.difference
    return replace(one, first=one.second, second=one.first, difference=difference, interval=(-high, -low))


def axis(
    start: float, end: float, step: float, label: Callable[[float], str]
) -> tuple[Callable[[float], float], tuple[tuple[float, str], ...]]:
    """Where a value stands between `start` and `end`, in percent, and a tick at each multiple of `step`."""

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - start) / (end - start))), 2)

    first, last = math.ceil(start / step - 1e-9), math.floor(end / step + 1e-9)
    values = [round(i * step, 6) for i in range(first, last + 1)]
    return place, tuple((place(value), label(value)) for value in values)


def nice_step(step: float) -> float:
    """The smallest of 1, 2, 5 times a power of ten that is no less than `step`."""
    power = 10.0 ** math.floor(math.log10(step))
    return next(power * n for n in (1, 2, 5, 10) if power * n >= step - 1e-12)
