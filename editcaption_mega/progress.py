"""How far long work is: the form of `progress_display.progress`, which functions take from whoever calls them."""

from collections.abc import Callable, Iterable
from typing import Protocol

Label = str | Callable[[], str]  # of what; a function where the words change as the work goes on


class Progress(Protocol):
    """Passes the items through, in order; total: how many there are (None: as many as `items` says), label: of what."""

    def __call__[Item](self, items: Iterable[Item], total: int | None = None, label: Label = "") -> Iterable[Item]: ...


def no_progress[Item](items: Iterable[Item], total: int | None = None, label: Label = "") -> Iterable[Item]:
    """Says nothing."""
    return items
