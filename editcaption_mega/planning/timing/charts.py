"""A plan as pictures, drawn with Pillow alone: the pipeline's timeline, memory per rank role, memory over a step."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

from PIL import Image, ImageDraw, ImageFont

from .simulation import Timeline

GIB = 2**30
WIDTH = 1800  # pixels
_MARGIN, _GAP = 40, 16  # at the edge, and between the plot and its labels
_TEXT, _TITLE = 22, 30
_LINE = 36  # of text
_INK, _QUIET, _GRID, _IDLE, _ALARM = "#1f2430", "#5f6675", "#dfe2e8", "#eceef2", "#c0182b"
# Colors that people who see few of them can tell apart (Okabe and Ito), by kind; further kinds take the rest in turn.
_COLORS = {
    "forward": "#0072b2",
    "backward": "#e69f00",
    "reference": "#009e73",
    "optimizer": "#cc79a7",
    "communication": "#56b4e9",
    "weights": "#0072b2",
    "gradients": "#56b4e9",
    "activations": "#e69f00",
    "logits": "#d55e00",
    "vision": "#009e73",
    "reserve": "#a9aeb8",
}
_OTHERS = ("#7f5fa8", "#b8860b", "#3d7a7a", "#f0e442", "#8c564b", "#999933", "#4b5fae", "#d98cb3")


class Bar(NamedTuple):
    """What a lane does from start to end (seconds). label: drawn in it where there is room; shade: 0 for the kind's own
    color, more for lighter ones (model chunks)."""

    label: str
    start: float
    end: float
    kind: str
    shade: int = 0


class Lane(NamedTuple):
    """A line of the timeline, such as a pipeline stage. note: at its right end, such as its idle share."""

    label: str
    bars: Sequence[Bar]
    note: str = ""


def lanes_of(timeline: Timeline) -> list[Lane]:
    """A lane per pipeline stage, with micro-batches as labels and model chunks as shades."""
    lanes = []
    for stage, (slots, idle) in enumerate(zip(timeline.stages, timeline.idle, strict=True)):
        bars = [
            Bar(str(slot.work.micro_batch), slot.start, slot.end, slot.work.kind, slot.work.chunk) for slot in slots
        ]
        lanes.append(Lane(f"stage {stage}", bars, f"idle {100 * idle:.0f} %"))
    return lanes


def draw_timeline(lanes: Sequence[Lane], title: str) -> Image.Image:
    """What each lane does when, idle time pale, over an axis in milliseconds from 0 to the last end."""
    height = 58
    end = max((bar.end for lane in lanes for bar in lane.bars), default=0.0) or 1e-3
    kinds = _unique(bar.kind for lane in lanes for bar in lane.bars)
    colors = _colors_of(kinds)
    legend = [(kind, colors[kind]) for kind in kinds] + [("idle", _IDLE)]
    if any(bar.shade for lane in lanes for bar in lane.bars):
        legend.append(("paler: later model chunks", "#ffffff"))
    page = _Page(title, legend, len(lanes) * height, [lane.label for lane in lanes], [lane.note for lane in lanes])
    page.axis(end * 1000, "ms", vertical=False)
    for number, lane in enumerate(lanes):
        top = page.top + number * height
        page.draw.rectangle((page.left, top + 4, page.right, top + height - 5), fill=_IDLE)
        page.text((page.left - _GAP, top + height / 2), lane.label, anchor="rm")
        page.text((page.right + _GAP, top + height / 2), lane.note, color=_QUIET)
        for bar in lane.bars:
            left, right = page.x_of(bar.start / end), page.x_of(bar.end / end)
            page.box(left, top + 4, right, top + height - 5, _lighter(colors[bar.kind], bar.shade), bar.label)
    return page.image


def draw_memory(
    roles: Mapping[str, Mapping[str, float]], title: str, *, limit_bytes: float | None = None
) -> Image.Image:
    """A bar per rank role: role -> kind -> bytes, stacked in the order of kinds, with the total behind it. limit_bytes:
    a line that no bar should cross; totals beyond it are red."""
    height = 58
    totals = {role: sum(kinds.values()) for role, kinds in roles.items()}
    most = max([*totals.values(), limit_bytes or 0.0], default=0.0) or GIB
    kinds = _unique(kind for of_role in roles.values() for kind in of_role)
    colors = _colors_of(kinds)
    page = _Page(title, [(kind, colors[kind]) for kind in kinds], len(roles) * height, list(roles), ["1,000.0 GiB"])
    page.axis(most / GIB, "GiB", vertical=False)
    for number, (role, of_role) in enumerate(roles.items()):
        top, left = page.top + number * height, page.left
        page.text((page.left - _GAP, top + height / 2), role, anchor="rm")
        for kind in kinds:
            right = left + page.width * of_role.get(kind, 0.0) / most
            if right > left:
                page.box(left, top + 7, right, top + height - 8, colors[kind], f"{of_role[kind] / GIB:.1f}")
            left = right
        over = limit_bytes is not None and totals[role] > limit_bytes
        page.text((left + 12, top + height / 2), f"{totals[role] / GIB:.1f} GiB", color=_ALARM if over else _INK)
    if limit_bytes is not None:
        x = page.x_of(limit_bytes / most)
        page.dashes((x, page.top), (x, page.bottom))
        page.text((x, page.top - 16), f"{limit_bytes / GIB:.1f} GiB", color=_ALARM, anchor="mm")
    return page.image


def draw_memory_timeline(
    points: Sequence[tuple[float, float | Mapping[str, float]]],
    title: str,
    *,
    unit: str = "operations",
    limit_bytes: float | None = None,
) -> Image.Image:
    """Bytes over a step: (position, bytes) or (position, kind -> bytes), positions rising, drawn as stacked areas with
    the peak marked. unit: of the positions, such as "operations" or "ms"."""
    height = 420
    rows = [(x, dict(y) if isinstance(y, Mapping) else {"memory": y}) for x, y in points] or [(0.0, {"memory": 0.0})]
    kinds = _unique(kind for _, of_point in rows for kind in of_point)
    colors = _colors_of(kinds)
    peak_x, peak = max(((x, sum(of_point.values())) for x, of_point in rows), key=lambda entry: entry[1])
    most = max(peak, limit_bytes or 0.0) * 1.06 or GIB
    first, last = rows[0][0], rows[-1][0]
    page = _Page(title, [(kind, colors[kind]) for kind in kinds], height, ["1,000"], ["1,000.0 GiB", unit])
    page.axis(most / GIB, "GiB", vertical=True)
    page.axis(last, unit, vertical=False, start=first)

    def y_of(value: float) -> float:
        return page.bottom - height * value / most

    for column, of_point in enumerate(_columns(rows, int(page.width))):
        level = 0.0
        for kind in kinds:
            if value := of_point.get(kind, 0.0):
                x = page.left + column
                page.draw.line((x, y_of(level), x, y_of(level + value)), fill=colors[kind], width=1)
                level += value
    if limit_bytes is not None:
        page.dashes((page.left, y_of(limit_bytes)), (page.right, y_of(limit_bytes)))
        page.text((page.right + _GAP, y_of(limit_bytes)), f"{limit_bytes / GIB:.1f} GiB", color=_ALARM)
    x, y = page.x_of((peak_x - first) / ((last - first) or 1)), y_of(peak)
    page.draw.ellipse((x - 6, y - 6, x + 6, y + 6), fill="white", outline=_INK, width=3)
    anchor = "lm" if x < (page.left + page.right) / 2 else "rm"
    page.label((x + (18 if anchor == "lm" else -18), y - 20), f"peak {peak / GIB:.1f} GiB", anchor)
    return page.image


def stack_pictures(pictures: Sequence[Image.Image]) -> Image.Image:
    """Pictures of one width below each other."""
    page = Image.new("RGB", (WIDTH, sum(picture.height for picture in pictures)), "white")
    top = 0
    for picture in pictures:
        page.paste(picture, (0, top))
        top += picture.height
    return page


class _Page:
    """A white picture with title, legend and a plot of a given height; labels stand left of it and notes right."""

    def __init__(
        self, title: str, legend: Sequence[tuple[str, str]], height: int, labels: Sequence[str], notes: Sequence[str]
    ):
        self.regular, self.large = ImageFont.load_default(_TEXT), ImageFont.load_default(_TITLE)
        self.left = float(round(_MARGIN + _GAP + max(map(self.regular.getlength, labels), default=0)))
        self.right = float(round(WIDTH - _MARGIN - 2 * _GAP - max(map(self.regular.getlength, ["GiB", *notes]))))
        self.width = self.right - self.left
        lines = self._legend_lines(legend)
        self.top = _MARGIN + _LINE + 14 + len(lines) * _LINE + 34
        self.bottom = self.top + height
        self.image = Image.new("RGB", (WIDTH, self.bottom + 84), "white")
        self.draw = ImageDraw.Draw(self.image)
        self.draw.text((_MARGIN, _MARGIN), title, fill=_INK, font=self.large, anchor="lt")
        for number, line in enumerate(lines):
            y = _MARGIN + _LINE + 14 + number * _LINE + _LINE / 2
            for x, name, color in line:
                self.draw.rectangle((x, y - 10, x + 20, y + 10), fill=color)
                self.text((x + 30, y), name)

    def _legend_lines(self, legend: Sequence[tuple[str, str]]) -> list[list[tuple[float, str, str]]]:
        lines: list[list[tuple[float, str, str]]] = [[]]
        x = float(_MARGIN)
        for name, color in legend:
            width = 30 + self.regular.getlength(name) + 34
            if lines[-1] and x + width > WIDTH - _MARGIN:
                lines.append([])
                x = float(_MARGIN)
            lines[-1].append((x, name, color))
            x += width
        return lines

    def x_of(self, share: float) -> float:
        return self.left + self.width * share

    def text(self, at: tuple[float, float], text: str, *, color: str = _INK, anchor: str = "lm") -> None:
        self.draw.text(at, text, fill=color, font=self.regular, anchor=anchor)

    def label(self, at: tuple[float, float], text: str, anchor: str) -> None:
        """Text on a white ground, over whatever is drawn there."""
        left, top, right, bottom = self.draw.textbbox(at, text, font=self.regular, anchor=anchor)
        self.draw.rounded_rectangle((left - 8, top - 6, right + 8, bottom + 6), 6, fill="white", outline=_GRID)
        self.text(at, text, anchor=anchor)

    def box(self, left: float, top: float, right: float, bottom: float, color: str, label: str) -> None:
        """A filled rectangle, with a gap to the next and the label where there is room for them."""
        gap = 1 if right - left >= 4 else 0
        self.draw.rectangle((left, top, max(left, right - gap - 1), bottom), fill=color)
        if label and self.regular.getlength(label) + 8 <= right - left:
            self.text(((left + right) / 2, (top + bottom) / 2), label, color=_ink_on(color), anchor="mm")

    def axis(self, most: float, unit: str, *, vertical: bool, start: float = 0.0) -> None:
        """Grid lines and numbers from `start` to `most` along one side of the plot."""
        step = _tick_step(most - start)
        for number in range(math.ceil(start / step), math.floor(most / step + 1e-6) + 1):
            tick = number * step
            share = (tick - start) / ((most - start) or 1)
            text = f"{tick:,.{0 if step >= 1 else 1 if step >= 0.1 else 3}f}"
            if vertical:
                y = self.bottom - (self.bottom - self.top) * share
                self.draw.line((self.left, y, self.right, y), fill=_GRID)
                self.text((self.left - _GAP, y), text, color=_QUIET, anchor="rm")
            else:
                x = self.x_of(share)
                self.draw.line((x, self.top, x, self.bottom + 8), fill=_GRID)
                self.text((x, self.bottom + 26), text, color=_QUIET, anchor="mm")
        if vertical:
            self.text((self.left - _GAP, self.top - 20), unit, color=_QUIET, anchor="rm")
        else:
            self.text((self.right + 2 * _GAP, self.bottom + 26), unit, color=_QUIET)

    def dashes(self, start: tuple[float, float], end: tuple[float, float]) -> None:
        length = max(abs(end[0] - start[0]), abs(end[1] - start[1])) or 1.0
        for position in range(0, int(length), 14):
            a, b = position / length, min(1.0, (position + 8) / length)
            points = [
                (start[0] + (end[0] - start[0]) * share, start[1] + (end[1] - start[1]) * share) for share in (a, b)
            ]
            self.draw.line(points, fill=_ALARM, width=3)


def _columns(rows: Sequence[tuple[float, dict[str, float]]], count: int) -> list[dict[str, float]]:
    """One entry per pixel of the plot: the highest of the points that fall on it, or the last one before it."""
    first, width = rows[0][0], (rows[-1][0] - rows[0][0]) or 1
    on_column: list[list[dict[str, float]]] = [[] for _ in range(count)]
    for x, of_point in rows:
        on_column[min(count - 1, int(count * (x - first) / width))].append(of_point)
    columns: list[dict[str, float]] = []
    before: dict[str, float] = {}
    for entries in on_column:
        columns.append(max(entries, key=lambda of_point: sum(of_point.values()), default=before))
        before = entries[-1] if entries else before
    return columns


def _unique(names: Iterable[str]) -> list[str]:
    return list(dict.fromkeys(names))


def _colors_of(kinds: Sequence[str]) -> dict[str, str]:
    others = [kind for kind in kinds if kind not in _COLORS]
    return {kind: _COLORS.get(kind) or _OTHERS[others.index(kind) % len(_OTHERS)] for kind in kinds}


def _rgb(color: str) -> tuple[int, int, int]:
    return int(color[1:3], 16), int(color[3:5], 16), int(color[5:7], 16)


def _lighter(color: str, shade: int) -> str:
    share = 1 - 0.75**shade
    return "#" + "".join(f"{round(part + (255 - part) * share):02x}" for part in _rgb(color))


def _ink_on(color: str) -> str:
    red, green, blue = _rgb(color)
    return _INK if 0.299 * red + 0.587 * green + 0.114 * blue > 140 else "white"


def _tick_step(length: float, most: int = 10) -> float:
    """1, 2 or 5 times a power of ten, so that at most `most` ticks lie on the axis."""
    step = 10.0**-6
    while length / step > most:
        for factor in (2.0, 2.5, 2.0):
            step *= factor
            if length / step <= most:
                break
    return step
