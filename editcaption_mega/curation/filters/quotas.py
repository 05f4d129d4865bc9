"""How many pairs of each category stay: the paper's quarter, quarter, half (section 3.1), by seed."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray

from editcaption_mega.records import CATEGORIES
from editcaption_mega.settings import SettingsError


def parse_quotas(text: str) -> dict[str, float]:
    """Category -> its share, of "semantic=25,stylistic=25,structural=50"; "" is none. Raises SettingsError."""
    shares: dict[str, float] = {}
    for part in filter(None, text.replace(" ", "").split(",")):
        name, sign, number = part.partition("=")
        try:
            value = float(number)
        except ValueError:
            value = -1.0
        if name not in CATEGORIES or not sign or name in shares or not 0 <= value < float("inf"):
            raise SettingsError(
                f"quota {part!r}: expected each of {', '.join(CATEGORIES)} once, as "
                "semantic=25,stylistic=25,structural=50"
            )
        shares[name] = value
    if shares and not sum(shares.values()):
        raise SettingsError(f"quotas {text!r} sum to 0: give some category a share")
    total = sum(shares.values())
    return {name: value / total for name, value in shares.items()}


def quota_counts(
    available: Mapping[str, int], shares: Mapping[str, float], wished: int | None = None
) -> dict[str, int]:
    """Category -> how many stay: as many as the scarcest category allows, or `wished` in all.

    A category without a share gets none. Raises ValueError for more than there are, naming what lacks."""
    asked = {name: share for name, share in shares.items() if share > 0}
    most = min((available.get(name, 0) / share for name, share in asked.items()), default=0.0)
    total = int(most + 1e-9) if wished is None else wished
    counts = {name: int(total * share + 1e-9) for name, share in asked.items()}
    for name in sorted(asked, key=lambda name: counts[name] - total * asked[name])[: total - sum(counts.values())]:
        counts[name] += 1  # what rounding left, to the largest remainders
    for name, count in counts.items():
        if count > available.get(name, 0):
            raise ValueError(
                f"{total:,} pairs with these quotas need {count:,} of {name}, and {available.get(name, 0):,} are "
                "left: ask for fewer, loosen a rule or leave --count out"
            )
    return {name: counts.get(name, 0) for name in CATEGORIES}


def drawn(ids: Sequence[str], places: NDArray[np.int64], count: int, seed: int) -> NDArray[np.int64]:
    """`count` of the places, in order. A pair's chance depends on its id and the seed alone, so a set that grows keeps
    most of what was drawn."""
    if count >= len(places):
        return places
    marks = np.array([_mark(ids[at], seed) for at in places], np.uint64)
    return np.sort(places[np.argsort(marks, kind="stable")[:count]])


def _mark(identity: str, seed: int) -> int:
    return int.from_bytes(hashlib.sha256(f"{seed}:{identity}".encode()).digest()[:8])
