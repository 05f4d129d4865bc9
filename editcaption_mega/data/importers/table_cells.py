"""The cells of a row of a table, whatever file it is from, and places in them."""

import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any, NamedTuple

_STEP = re.compile(r"\.?([^.\[\]]+)|\[(\d+)\]|\[([^=\]]+)=([^\]]*)\]")  # of a path into a cell


class Lost(NamedTuple):
    """Rows that cannot be read, and why."""

    reason: str
    rows: int = 1


class Row:
    """The cells of a row by the names of their columns. value: of a column; it raises ValueError where it has none."""

    def __init__(self, names: Iterable[str], value: Callable[[str], Any]):
        self.names, self._value = list(names), value

    @classmethod
    def of(cls, values: Mapping[str, Any]) -> "Row":
        return cls(values, values.__getitem__)

    def changed(self, values: Mapping[str, Any]) -> "Row":
        """The row with other cells in some columns."""
        names = dict.fromkeys([*self.names, *values])
        return Row(names, lambda name: values[name] if name in values else self._value(name))

    def has(self, place: str) -> bool:
        """Whether there is such a column."""
        return place in self.names or bool(place_columns(place) & set(self.names))

    def __getitem__(self, place: str) -> Any:
        """What stands there; None where there is nothing. Raises ValueError."""
        if place in self.names:
            return self._value(place)
        for alternative in place.split("|"):
            if (value := self._inside(alternative)) is not None and value != "":
                return value
        return None

    def _inside(self, place: str) -> Any:
        if place in self.names:
            return self._value(place)
        column = column_of(place)
        if column not in self.names:
            return None
        value = self._value(column)
        for name, number, key, wanted in _STEP.findall(place[len(column) :]):
            if isinstance(value, Mapping) and name:
                value = value.get(name)
            elif isinstance(value, list | tuple) and number and int(number) < len(value):
                value = value[int(number)]
            elif isinstance(value, list | tuple) and key:
                value = next((item for item in value if isinstance(item, Mapping) and item.get(key) == wanted), None)
            else:
                return None
        return value


def column_of(place: str) -> str:
    """The column that a place without alternatives lies in."""
    return re.split(r"[.\[]", place, maxsplit=1)[0] or place


def place_columns(place: str) -> set[str]:
    """The columns that a place may lie in, and the names that it may be itself."""
    return {*columns_in(place), *place.split("|")}


def inner_key(place: str, column: str) -> str | None:
    """The first name inside a column that a place, or an alternative of it, goes to; None for the column itself."""
    for alternative in place.split("|"):
        if alternative.startswith(column + "."):
            return re.split(r"[.\[]", alternative[len(column) + 1 :], maxsplit=1)[0]
    return None


def columns_in(place: str) -> list[str]:
    """The columns that a place, and each of its alternatives, lies in."""
    return [column_of(alternative) for alternative in place.split("|")]
