"""A first captioner that errs: what a pair's instruction says instead of the truth, by failure mode.

The paper's training captions come from a vision-language model, and such models take left for right, the camera's
change for another one, or a detail for another one. The pair's `changes` keep the truth.

    orientation   the opposite direction, the other axis, the place mirrored (of pans this is the common confusion: the
                  content moves one way when the camera goes the other way)
    viewpoint     a zoom in for a zoom out and the reverse; pans and mirrors are orientation's
    detail        one attribute (colour, size, texture, count, letter, tone) for another one of its kind

Orientation mistakes are systematic when their rate is above one half: a model that learns from such captions and then
says what is likeliest is wrong every time. Detail mistakes are drawn from many values, so they average out.
"""

import random
from collections.abc import Mapping
from copy import deepcopy

from editcaption_mega.data.synthetic.edits import Facts, mirrored
from editcaption_mega.data.synthetic.scene import CELL_OF, GRID, PLACES
from editcaption_mega.data.synthetic.templates import FORMS
from editcaption_mega.records.pair import FAILURE_MODES

_OPPOSITE = {
    "left": "right",
    "right": "left",
    "up": "down",
    "down": "up",
    "horizontal": "vertical",
    "vertical": "horizontal",
}
_DETAILS = ("object.colour", "object.size", "with.colour", "to", "count")


def mistaken(edits: list[Facts], rates: Mapping[str, float], rng: random.Random) -> tuple[list[Facts], tuple[str, ...]]:
    """What the captioner takes these edits for, and the failure modes of its mistakes (in records.FAILURE_MODES' order;
    empty when it is right). rates: the chance of each failure mode where an edit allows it."""
    found, modes = deepcopy(edits), set()
    for facts in found:
        for mode in FAILURE_MODES:
            if rng.random() < rates.get(mode, 0.0) and _MISTAKE[mode](facts, rng):
                modes.add(mode)
    return found, tuple(mode for mode in FAILURE_MODES if mode in modes)


def _orientation(facts: Facts, rng: random.Random) -> bool:
    for key in ("direction", "axis"):
        if facts["action"] != "camera_zoom" and key in facts:
            facts[key] = _OPPOSITE[facts[key]]
            return True
    if "place" in facts:
        cell = CELL_OF[facts["place"]]
        in_middle_column = cell[1] == GRID // 2
        facts["place"] = PLACES[mirrored(cell, "vertical" if in_middle_column else "horizontal")]
        return cell != (GRID // 2, GRID // 2)  # the centre mirrors to itself
    return False


def _viewpoint(facts: Facts, rng: random.Random) -> bool:
    if facts["action"] != "camera_zoom":
        return False
    facts["direction"] = "out" if facts["direction"] == "in" else "in"
    return True


def _detail(facts: Facts, rng: random.Random) -> bool:
    form = next(form for form in FORMS if form.action == facts["action"] and _says(form.slots, facts))
    paths = [path for path in _DETAILS if path in form.slots]
    if not paths:
        return False
    path = rng.choice(paths)
    *outer, key = path.split(".")
    holder = facts[outer[0]] if outer else facts
    holder[key] = rng.choice([value for value in form.slots[path] if value != holder[key]])
    return True


def _says(slots: Mapping[str, object], facts: Facts) -> bool:
    return {path.split(".")[0] for path in slots} == facts.keys() - {"action"}


_MISTAKE = {"orientation": _orientation, "viewpoint": _viewpoint, "detail": _detail}
