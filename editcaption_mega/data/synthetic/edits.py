"""Edits as facts: a canonical dict says what changes, `apply_edit` does it, `draw_edit` chooses one at random.

The facts (all values are strings but `count`; an object is named by its colour and shape):

    add          {"action", "object": {"colour", "shape", "size"}, "place"}      new objects are plain
    remove       {"action", "object"}
    replace      {"action", "object", "with": {"colour", "shape"}}               shape differs
    count        {"action", "object", "count": 1..4}                             copies inside the object's cell
    background   {"action", "to"}
    recolour     {"action", "object", "to"}
    retexture    {"action", "object", "to": "plain" | "striped" | "dotted"}      large objects only
    tone         {"action", "to"}                                                whole picture
    move         {"action", "object", "direction"}                               one cell, into an empty one
    resize       {"action", "object", "to": "small" | "large"}                   plain objects only
    text         {"action", "to", "place"} (written) or {"action", "from", "to"} (changed)
    camera_zoom  {"action", "direction": "in" | "out"}
    camera_pan   {"action", "direction"}    the camera's own direction: "left" shifts the content one cell to the RIGHT
    mirror       {"action", "axis"}         "horizontal" swaps left and right, "vertical" swaps top and bottom
    hybrid       two facts of different actions on different objects, in the order of HYBRID_ACTIONS
"""

import random
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from editcaption_mega.data.synthetic.scene import (
    BACKGROUNDS,
    CELL_OF,
    COLOURS,
    COUNTS,
    DIRECTIONS,
    GRID,
    LETTERS,
    PLACES,
    SHAPES,
    SIZES,
    TEXTURES,
    TONES,
    Item,
    Scene,
)

Facts = dict[str, Any]

HYBRID_ACTIONS = ("add", "remove", "replace", "recolour", "retexture", "resize", "move")
CAMERA_ACTIONS = ("camera_zoom", "camera_pan", "mirror")
_TRIES = 4  # draws of one edit in one scene before another scene is taken


class EditError(ValueError):
    """These facts cannot be applied to this scene, or the result would have a second reading."""


def apply_edit(scene: Scene, facts: Facts) -> Scene:
    """The scene after one edit. Raises EditError where the edit is impossible, invisible or ambiguous."""
    apply = _APPLY.get(facts.get("action", ""))
    if apply is None:
        raise EditError(f"unknown action {facts.get('action')!r}")
    try:
        return apply(scene, facts)
    except KeyError as missing:
        raise EditError(f"the facts lack {missing}: {facts}") from None


def apply_edits(scene: Scene, edits: list[Facts]) -> Scene:
    """The scene after one edit, or after both edits of a hybrid (same errors as `apply_edit`).

    Both edits of a hybrid must be possible in the source and give the same target in either order: then no object that
    one edit creates, frees or names depends on the other, and the pair of edits has one reading.
    """
    if len(edits) == 1:
        return apply_edit(scene, edits[0])
    first, second = edits
    _require(first["action"] != second["action"], "a hybrid needs two different actions")
    _require(first["object"] != second["object"], "a hybrid needs two different objects")
    target = apply_edit(apply_edit(scene, first), second)
    _require(_same(target, apply_edit(apply_edit(scene, second), first)), "the order of the edits matters")
    return target


def draw_edit(
    scene: Scene, edit_type: str, rng: random.Random, *, textures: bool = True
) -> tuple[list[Facts], Scene] | None:
    """Random facts of this edit type for this scene and the target scene; None where a few tries found none."""
    actions = [name for name in HYBRID_ACTIONS if textures or name != "retexture"]
    for _ in range(_TRIES):
        if edit_type == "hybrid":
            chosen = sorted(rng.sample(range(len(actions)), 2))
            edits = [_DRAW[actions[number]](scene, rng) for number in chosen]
        else:
            edits = [_DRAW[edit_type](scene, rng)]
        try:
            return edits, apply_edits(scene, edits)
        except EditError:
            continue
    return None


def _require(condition: bool, reason: str) -> None:
    if not condition:
        raise EditError(reason)


def _same(one: Scene, other: Scene) -> bool:
    return replace(one, items=()) == replace(other, items=()) and set(one.items) == set(other.items)


# ---- how each edit is applied ------------------------------------------------------------------------------------


def _single(scene: Scene, facts: Facts) -> Item:
    item = scene.find(facts["object"])
    if item is None:
        raise EditError(f"there is no {facts['object']} in the scene")
    _require(item.count == 1, "a group is only named by a count edit")
    return item


def _swap(scene: Scene, old: Item, new: Item) -> Scene:
    _require(old != new, "nothing would change")
    return replace(scene, items=tuple(new if item is old else item for item in scene.items))


def _add(scene: Scene, facts: Facts) -> Scene:
    made, cell = facts["object"], CELL_OF[facts["place"]]
    _require(cell not in scene.occupied, "the cell is not empty")
    _require((made["colour"], made["shape"]) not in scene.identities, "this object is there already")
    return replace(scene, items=scene.items + (Item(made["shape"], made["colour"], cell, made["size"]),))


def _remove(scene: Scene, facts: Facts) -> Scene:
    item = _single(scene, facts)
    _require(len(scene.items) > 1, "the scene would be empty")
    return replace(scene, items=tuple(other for other in scene.items if other is not item))


def _replace(scene: Scene, facts: Facts) -> Scene:
    item, made = _single(scene, facts), facts["with"]
    _require(made["shape"] != item.shape, "the same shape in another colour is a recolour edit")
    _require((made["colour"], made["shape"]) not in scene.identities, "this object is there already")
    return _swap(scene, item, replace(item, shape=made["shape"], colour=made["colour"]))


def _count(scene: Scene, facts: Facts) -> Scene:
    item = scene.find(facts["object"])
    if item is None:
        raise EditError("there is no such object")
    _require(item.size == "small", "only small objects come in groups")
    return _swap(scene, item, replace(item, count=facts["count"]))


def _background(scene: Scene, facts: Facts) -> Scene:
    _require(facts["to"] != scene.background, "nothing would change")
    return replace(scene, background=facts["to"])


def _recolour(scene: Scene, facts: Facts) -> Scene:
    item = _single(scene, facts)
    _require((facts["to"], item.shape) not in scene.identities, "this object is there already")
    return _swap(scene, item, replace(item, colour=facts["to"]))


def _retexture(scene: Scene, facts: Facts) -> Scene:
    item = _single(scene, facts)
    _require(item.size == "large", "only large objects carry a texture")
    return _swap(scene, item, replace(item, texture=facts["to"]))


def _resize(scene: Scene, facts: Facts) -> Scene:
    item = _single(scene, facts)
    _require(item.texture == "plain", "a textured object is always large")
    return _swap(scene, item, replace(item, size=facts["to"]))


def _tone(scene: Scene, facts: Facts) -> Scene:
    _require(not scene.tone, "the picture has a tone already")
    _require(any(item.colour != "black" for item in scene.items), "nothing in the picture is coloured")
    return replace(scene, tone=facts["to"])


def _move(scene: Scene, facts: Facts) -> Scene:
    item = _single(scene, facts)
    cell = _shifted(item.cell, DIRECTIONS[facts["direction"]])
    _require(cell in PLACES and cell not in scene.occupied, "the next cell is not free")
    return _swap(scene, item, replace(item, cell=cell))


def _text(scene: Scene, facts: Facts) -> Scene:
    if "from" in facts:
        if scene.letter is None or scene.letter[0] != facts["from"]:
            raise EditError("this letter is not in the scene")
        _require(facts["from"] != facts["to"], "nothing would change")
        return replace(scene, letter=(facts["to"], scene.letter[1]))
    cell = CELL_OF[facts["place"]]
    _require(scene.letter is None, "the scene has a letter already")
    _require(cell not in scene.occupied, "the cell is not empty")
    return replace(scene, letter=(facts["to"], cell))


def _camera_zoom(scene: Scene, facts: Facts) -> Scene:
    _require(not scene.zoom and len(scene.items) > 1, "a zoom needs two objects, else it reads as a resize")
    return replace(scene, zoom=facts["direction"])


def _camera_pan(scene: Scene, facts: Facts) -> Scene:
    rows, cols = DIRECTIONS[facts["direction"]]
    shift = (-rows, -cols)  # the camera goes one way, so the content goes the other way
    moved = [replace(item, cell=_shifted(item.cell, shift)) for item in scene.items]
    items = tuple(item for item in moved if item.cell in PLACES)
    _require(len(items) > 1, "a pan needs two objects that stay in view, else it reads as a move")
    letter = (scene.letter[0], _shifted(scene.letter[1], shift)) if scene.letter else None
    return replace(scene, items=items, letter=letter if letter and letter[1] in PLACES else None)


def _mirror(scene: Scene, facts: Facts) -> Scene:
    axis = facts["axis"]
    moving = [item for item in scene.items if mirrored(item.cell, axis) != item.cell]
    _require(not scene.flip and len(moving) > 1, "a mirror needs two objects off its axis, else it reads as a move")
    _require({mirrored(cell, axis) for cell in scene.occupied} != scene.occupied, "the layout is symmetric")
    return replace(scene, flip=axis)


def mirrored(cell: tuple[int, int], axis: str) -> tuple[int, int]:
    """Where a cell (row, column) lies after a mirror along this axis."""
    row, col = cell
    return (row, GRID - 1 - col) if axis == "horizontal" else (GRID - 1 - row, col)


def _shifted(cell: tuple[int, int], by: tuple[int, int]) -> tuple[int, int]:
    return cell[0] + by[0], cell[1] + by[1]


# ---- how each edit is drawn: plausible facts, `apply_edit` has the last word -----------------------------------------


def _an_object(scene: Scene, rng: random.Random) -> dict[str, str]:
    return rng.choice([item for item in scene.items if item.count == 1]).reference


def _a_free_place(scene: Scene, rng: random.Random) -> str:
    return PLACES[rng.choice([cell for cell in PLACES if cell not in scene.occupied])]


def _draw_add(scene: Scene, rng: random.Random) -> Facts:
    made = {"colour": rng.choice(COLOURS), "shape": rng.choice(SHAPES), "size": rng.choice(SIZES)}
    return {"action": "add", "object": made, "place": _a_free_place(scene, rng)}


def _draw_replace(scene: Scene, rng: random.Random) -> Facts:
    made = {"colour": rng.choice(COLOURS), "shape": rng.choice(SHAPES)}
    return {"action": "replace", "object": _an_object(scene, rng), "with": made}


def _draw_count(scene: Scene, rng: random.Random) -> Facts:
    item = rng.choice([item for item in scene.items if item.size == "small"] or scene.items)
    others = [count for count in COUNTS if count != item.count]
    return {"action": "count", "object": item.reference, "count": rng.choice(others)}


def _draw_text(scene: Scene, rng: random.Random) -> Facts:
    if scene.letter:
        others = [letter for letter in LETTERS if letter != scene.letter[0]]
        return {"action": "text", "from": scene.letter[0], "to": rng.choice(others)}
    return {"action": "text", "to": rng.choice(LETTERS), "place": _a_free_place(scene, rng)}


def _draw_resize(scene: Scene, rng: random.Random) -> Facts:
    named = _an_object(scene, rng)
    return {"action": "resize", "object": named, "to": "large" if scene.item(named).size == "small" else "small"}


def _named(action: str, key: str, values: tuple[str, ...]) -> Callable[[Scene, random.Random], Facts]:
    return lambda scene, rng: {"action": action, "object": _an_object(scene, rng), key: rng.choice(values)}


def _whole(action: str, key: str, values: tuple[str, ...]) -> Callable[[Scene, random.Random], Facts]:
    return lambda scene, rng: {"action": action, key: rng.choice(values)}


_APPLY: dict[Any, Callable[[Scene, Facts], Scene]] = {
    "add": _add,
    "remove": _remove,
    "replace": _replace,
    "count": _count,
    "background": _background,
    "recolour": _recolour,
    "retexture": _retexture,
    "tone": _tone,
    "move": _move,
    "resize": _resize,
    "text": _text,
    "camera_zoom": _camera_zoom,
    "camera_pan": _camera_pan,
    "mirror": _mirror,
}
_DRAW: dict[str, Callable[[Scene, random.Random], Facts]] = {
    "add": _draw_add,
    "remove": lambda scene, rng: {"action": "remove", "object": _an_object(scene, rng)},
    "replace": _draw_replace,
    "count": _draw_count,
    "background": _whole("background", "to", BACKGROUNDS),
    "recolour": _named("recolour", "to", COLOURS),
    "retexture": _named("retexture", "to", TEXTURES),
    "tone": _whole("tone", "to", TONES),
    "move": _named("move", "direction", tuple(DIRECTIONS)),
    "resize": _draw_resize,
    "text": _draw_text,
    "camera_zoom": _whole("camera_zoom", "direction", ("in", "out")),
    "camera_pan": _whole("camera_pan", "direction", tuple(DIRECTIONS)),
    "mirror": _whole("mirror", "axis", ("horizontal", "vertical")),
}
