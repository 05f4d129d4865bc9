"""How far long work is, on stderr: a bar on a terminal, else a plain line every few seconds and one at the end."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sized
from typing import Any

from editcaption_mega.progress import Label

_SECONDS_BETWEEN_LINES = 5.0


def progress[Item](items: Iterable[Item], total: int | None = None, label: Label = "") -> Iterator[Item]:
    """Pass `items` through, showing how many there were. `total` defaults to len(items) where there is one."""
    if total is None and isinstance(items, Sized):
        total = len(items)
    if sys.stderr.isatty():
        return _bar(items, total, label, _one)
    return _lines(items, total, label, _one, str)


def byte_progress[Item](items: Iterable[Item], total: int | None = None, label: Label = "") -> Iterator[Item]:
    """As `progress`, of items that are numbers of bytes, `total` together."""
    if sys.stderr.isatty():
        return _bar(items, total, label, _itself)
    unit, size = ("GB", 1e9) if total is None or total >= 1e9 else ("MB", 1e6)
    return _lines(items, total, label, _itself, lambda count: f"{count / size:.2f}", unit=f" {unit}")


def _one(item: object) -> int:
    return 1


def _itself(item: Any) -> int:
    return int(item)


def _bar[Item](items: Iterable[Item], total: int | None, label: Label, amount: Callable[[Item], int]) -> Iterator[Item]:
    from rich.console import Console
    from rich.progress import (
        BarColumn,
        DownloadColumn,
        MofNCompleteColumn,
        Progress,
        TextColumn,
        TimeElapsedColumn,
        TimeRemainingColumn,
    )

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn() if amount is _one else DownloadColumn(),
        TimeElapsedColumn(),
        TimeRemainingColumn(),
    )
    with Progress(*columns, console=Console(stderr=True)) as bar:
        task = bar.add_task(_words(label), total=total)
        for item in items:
            yield item
            bar.advance(task, amount(item))
            if callable(label):
                bar.update(task, description=label())


def _lines[Item](
    items: Iterable[Item],
    total: int | None,
    label: Label,
    amount: Callable[[Item], int],
    show: Callable[[int], str],
    unit: str = "",
) -> Iterator[Item]:
    start = last = time.monotonic()
    of = unit if total is None else f" of {show(total)}{unit}"
    count = 0
    # What is left goes by the last lines' rate: a resumed run passes in a moment over what is done. The first line says
    # nothing of it: the time up to there has loading in it, and all of a batch whose items come together.
    marks = deque[tuple[float, int]](maxlen=4)
    for item in items:
        yield item
        count += amount(item)
        now = time.monotonic()
        if now - last >= _SECONDS_BETWEEN_LINES:
            last = now
            marks.append((now, count))
            then, before = marks[0]
            left = ""
            if total and before < count < total:
                left = f", about {duration((now - then) / (count - before) * (total - count))} left"
            print(f"{_words(label)}: {show(count)}{of} after {now - start:.0f} s{left}", file=sys.stderr, flush=True)
    print(f"{_words(label)}: {show(count)}{of} in {time.monotonic() - start:.1f} s", file=sys.stderr, flush=True)


def duration(seconds: float) -> str:
    """A time in its own unit, about as exact as a guess is: 95 s, 12 min, 3.5 h, 2.1 days."""
    for unit, size, places in (("days", 86400, 1), ("h", 3600, 1), ("min", 60, 0)):
        if seconds >= 2 * size:
            return f"{seconds / size:.{places}f} {unit}"
    return f"{seconds:.0f} s"


def _words(label: Label) -> str:
    return label() if callable(label) else label
