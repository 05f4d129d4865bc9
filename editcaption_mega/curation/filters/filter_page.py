"""One HTML file that shows what a filter did: survival, histograms, calibration, pairs on both sides of each rule."""

import base64
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np
from markupsafe import Markup
from numpy.typing import NDArray

from editcaption_mega.curation.columns import ColumnFile, joined
from editcaption_mega.data.images.decode import ImageError
from editcaption_mega.data.shards.reader import SIDES, ShardReader
from editcaption_mega.evaluation.report.page.plots import axis, nice_step
from editcaption_mega.evaluation.report.page.self_contained import content_hash, inline, page_environment
from editcaption_mega.evaluation.report.page.thumbnails import shrunk
from editcaption_mega.files import replacing
from editcaption_mega.records import CATEGORIES

from .calibration import Calibration
from .column_values import ColumnValues
from .decisions import STAYS, Decision
from .filter_rules import FilterRule

PAIRS_PER_SHEET = 8
_BARS = 48
_PICTURE_BYTES, _PICTURE_SIDE = 9_000, 240
_PACKAGE, _REPORT = "editcaption_mega.curation.filters", "editcaption_mega.evaluation.report"

Places = NDArray[np.int64]


@dataclass(frozen=True)
class FilterPage:
    """What the page is made of. texts: the file whose instructions are shown; files: (name, step) of all."""

    shards: ShardReader
    rules: Sequence[FilterRule]
    values: ColumnValues
    decision: Decision
    texts: ColumnFile | None = None
    files: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Histogram:
    """bars: (left, height of what stays, height of what goes), percent; mark: where the threshold stands."""

    rule: str
    column: str
    bars: list[tuple[float, float, float]]
    width: float
    ticks: Sequence[tuple[float, str]]
    most: int  # pairs of the highest bar
    mark: float | None
    absent: int


@dataclass(frozen=True)
class CalibrationPlot:
    """precision, recall: SVG polylines in a box of 100 by 100, the threshold across."""

    rule: str
    calibration: Calibration
    precision: str
    recall: str
    band: str
    ticks: Sequence[tuple[float, str]]
    mark: float


@dataclass(frozen=True)
class PairCard:
    """One pair of a contact sheet. pictures: data URLs, or why there is none."""

    id: str
    about: str
    instruction: str
    value: str
    pictures: Sequence[tuple[str, str]]
    reason: str = ""


@dataclass(frozen=True)
class Sheet:
    title: str
    cards: list[PairCard] = field(default_factory=list)


def write_page(path: Path, page: FilterPage) -> None:
    """Whatever stands in the pairs is escaped; the page runs no script and loads nothing. Raises OSError."""
    style = inline(_REPORT, ("report.css",)) + "\n" + inline(_PACKAGE, ("filter.css",))
    html = page_environment(_PACKAGE).get_template("filter.html.j2").generate(
        style=Markup(style), style_hash=content_hash(style), categories=CATEGORIES, decision=page.decision,
        pairs=len(page.shards), kept=len(page.decision.kept), files=page.files,
        histograms=[_histogram(page, place) for place in page.values.numbers],
        calibrations=list(_calibrations(page.decision)),
        sheets=list(_sheets(page)),
    )  # fmt: skip
    with replacing(path) as file:
        file.writelines(html)


def _histogram(page: FilterPage, place: int) -> Histogram:
    numbers, rule = page.values.numbers[place], page.rules[place]
    known = np.isfinite(numbers)
    stays = page.decision.dropped_at[known] == STAYS
    low, high = (float(numbers[known].min()), float(numbers[known].max())) if known.any() else (0.0, 1.0)
    high = high if high > low else low + 1.0
    edges = np.linspace(low, high, _BARS + 1)
    kept, gone = (np.histogram(numbers[known][mask], edges)[0] for mask in (stays, ~stays))
    most = max(1, int((kept + gone).max()))
    place_of, ticks = axis(low, high, nice_step((high - low) / 6), lambda value: f"{value:g}")
    bars = [
        (place_of(left), round(100 * int(k) / most, 2), round(100 * int(g) / most, 2))
        for (left, _), k, g in zip(pairwise(edges), kept, gone, strict=True)
    ]
    threshold = page.decision.stages[place].threshold
    mark = None if threshold is None or not low <= threshold <= high else place_of(threshold)
    return Histogram(rule.text, rule.column, bars, 100 / _BARS, ticks, most, mark, int((~known).sum()))


def _calibrations(decision: Decision) -> Iterator[CalibrationPlot]:
    for stage in decision.stages:
        if (calibration := stage.calibration) is None:
            continue
        curve = sorted(calibration.curve, key=lambda point: point.threshold)
        low, high = curve[0].threshold, curve[-1].threshold
        high = high if high > low else low + 1.0
        across, ticks = axis(low, high, nice_step((high - low) / 6), lambda value: f"{value:g}")

        def line(values: list[float]) -> str:
            return " ".join(f"{across(p.threshold):g},{100 - 100 * v:g}" for p, v in zip(curve, values, strict=True))  # noqa: B023

        upper, lower = line([p.interval[1] for p in curve]), line([p.interval[0] for p in curve])
        band = upper + " " + " ".join(reversed(lower.split(" ")))
        yield CalibrationPlot(
            stage.rule, calibration, line([p.precision for p in curve]), line([p.recall for p in curve]), band, ticks,
            across(calibration.chosen.threshold),
        )  # fmt: skip


def _sheets(page: FilterPage) -> Iterator[Sheet]:
    """Best and borderline pairs of each numeric rule, and some of what each stage dropped."""
    chosen: list[tuple[str, int | None, Places]] = []
    dropped_at = page.decision.dropped_at
    for place, numbers in page.values.numbers.items():
        rule, stage = page.rules[place], page.decision.stages[place]
        kept = np.flatnonzero((dropped_at == STAYS) & ~np.isnan(numbers))
        gone = np.flatnonzero((dropped_at == place) & ~np.isnan(numbers))
        far = -numbers if rule.keeps_high else numbers
        near = np.abs(numbers - (stage.threshold or 0.0))
        chosen.append((f"Best by {rule.column}", place, _first(kept, far)))
        chosen.append((f"Borderline, just passed {rule.text}", place, _first(kept, near)))
        chosen.append((f"Borderline, just dropped by {rule.text}", place, _first(gone, near)))
        chosen.append((f"Dropped by {rule.text}, the farthest", place, _first(gone, -near)))
    for place, stage in enumerate(page.decision.stages):
        if place not in page.values.numbers:
            gone = np.flatnonzero(dropped_at == place)
            picked = np.random.default_rng(page.decision.seed).permutation(gone)[:PAIRS_PER_SHEET]
            chosen.append((f"Dropped by {stage.rule}", None, np.sort(picked)))
    texts = _texts(page, {int(at) for _, _, places in chosen for at in places})
    for title, place, places in chosen:
        yield Sheet(title, [_card(page, int(at), place, texts) for at in places])


def _first(places: Places, key: NDArray[np.float64]) -> Places:
    """The places with the smallest keys, PAIRS_PER_SHEET at most."""
    if len(places) > PAIRS_PER_SHEET:
        places = places[np.argpartition(key[places], PAIRS_PER_SHEET - 1)[:PAIRS_PER_SHEET]]
    return places[np.argsort(key[places], kind="stable")]


def _texts(page: FilterPage, places: set[int]) -> dict[int, str]:
    if page.texts is None:
        pairs = {at: page.shards.pair(at) for at in places}
        return {at: pair.instruction or pair.chosen or "" for at, pair in pairs.items()}
    sample = page.values.sample
    return {
        at: rows[sample[at] if len(rows) > 1 else 0].get("instruction") or ""
        for at, (rows,) in joined(page.shards, [page.texts])
        if at in places
    }


def _card(page: FilterPage, at: int, place: int | None, texts: dict[int, str]) -> PairCard:
    pair = page.shards.pair(at)
    value = "" if place is None else f"{page.rules[place].column} {page.values.numbers[place][at]:.4g}"
    pictures: list[tuple[str, str]] = []
    reason = ""
    try:
        for side in SIDES:
            mime, data = shrunk(page.shards.picture(at, side), _PICTURE_BYTES, side=_PICTURE_SIDE, where=f"the {side}")
            pictures.append((side, f"data:{mime};base64,{base64.b64encode(data).decode()}"))
    except ImageError as error:
        pictures, reason = [], str(error)
    return PairCard(pair.id, f"{pair.category}, {pair.edit_type}", texts[at], value, pictures, reason)
