"""What the pairs of a set say of themselves, counted: categories, licenses, texts, provenance."""

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from .pair import EditPair

_MOST_VALUES = 20  # of a key: more are ids or measurements, and no choice that somebody made
_LONGEST = 200  # characters of a value
NO_LICENSE = "none given"
LICENSE_KEYS = ("license", "licence")


@dataclass
class Contents:
    """What the pairs of a set say, counted as they pass."""

    pairs: int = 0
    categories: Counter[str] = field(default_factory=Counter)
    edit_types: Counter[str] = field(default_factory=Counter)
    licenses: Counter[str] = field(default_factory=Counter)
    texts: Counter[str] = field(default_factory=Counter)  # instruction, chosen and rejected
    provenance: dict[str, Counter[str] | None] = field(default_factory=dict)  # dotted key; None: too many values

    def add(self, pair: EditPair) -> None:
        self.pairs += 1
        self.categories[pair.category] += 1
        self.edit_types[pair.edit_type] += 1
        self.licenses[license_of(pair) or NO_LICENSE] += 1
        self.texts["instruction"] += pair.instruction is not None
        self.texts["chosen and rejected"] += pair.chosen is not None
        for key, value in leaves(pair.provenance):
            self._count(key, value)

    def _count(self, key: str, value: str) -> None:
        counts = self.provenance.setdefault(key, Counter())
        if counts is not None:
            counts[value] += 1
            if len(counts) > _MOST_VALUES:
                self.provenance[key] = None


def license_of(pair: EditPair) -> str | None:
    for key in LICENSE_KEYS:
        value = pair.provenance.get(key)
        if isinstance(value, str) and value.strip():
            return value.strip()
    return None


def leaves(values: Mapping[str, Any], outer: str = "") -> list[tuple[str, str]]:
    """(dotted key, value) of a provenance, licenses aside; long values are cut."""
    found = []
    for key, value in values.items():
        name = f"{outer}{key}"
        if isinstance(value, dict):
            found += leaves(value, f"{name}.")
        elif key not in LICENSE_KEYS and isinstance(value, str | int | float | bool):
            text = value if isinstance(value, str) else json.dumps(value)
            found.append((name, text if len(text) <= _LONGEST else text[: _LONGEST - 2] + ".."))
    return found
