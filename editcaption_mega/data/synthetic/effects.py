"""What follows from an edit: the secondary changes of a pair, and its overall description.

A secondary change's facts have the key "effect" where a primary change's have "action".
"""

from typing import Any

from editcaption_mega.data.synthetic.edits import Facts, mirrored
from editcaption_mega.data.synthetic.phrasing import phrase_each
from editcaption_mega.data.synthetic.scene import PLACES, Item, Scene
from editcaption_mega.records import Change, Changes

Effect = tuple[str, dict[str, Any]]  # text and facts


def describe_changes(source: Scene, target: Scene, edits: list[Facts]) -> Changes:
    """The ground truth of a pair: primary changes p1 (and p2), secondary changes s1, s2, ... and an overview."""
    primary = [phrase_each(facts)[0] for facts in edits]
    secondary = [effect for facts in edits for effect in _effects(source, target, facts)]
    return Changes(
        primary=[
            Change(id=f"p{number}", text=text, facts=facts)
            for number, (text, facts) in enumerate(zip(primary, edits, strict=True), 1)
        ],
        secondary=[
            Change(id=f"s{number}", text=text, facts=facts) for number, (text, facts) in enumerate(secondary, 1)
        ],
        overall=f"{_overview(source)} {' '.join(primary)} {_OUTCOME.get(edits[0]['action'], 'Everything else stays.')}",
    )


_OUTCOME = {
    "tone": "Every object keeps its place, shape and size.",
    "camera_zoom": "The camera zooms; the objects themselves stay as they are.",
    "camera_pan": "The camera moves, so the whole content shifts the opposite way.",
    "mirror": "The whole view is reversed; no single object is edited.",
}


def _overview(source: Scene) -> str:
    names = [
        f"{item.count} {item.name}{'s' if item.count > 1 else ''} at the {PLACES[item.cell]}" for item in source.items
    ]
    if source.letter:
        names.append(f"the letter {source.letter[0]} at the {PLACES[source.letter[1]]}")
    return f"The source shows {', '.join(names)} on a {source.background} background."


def _effects(source: Scene, target: Scene, facts: Facts) -> list[Effect]:
    action = facts["action"]
    if action == "camera_pan":
        return _pan_effects(source, target)
    if action == "mirror":
        return _mirror_effects(source, facts["axis"])
    if action == "camera_zoom":
        size = "larger" if facts["direction"] == "in" else "smaller"
        return [(f"Every object looks {size}.", {"effect": "apparent_size", "to": size})]
    if action == "tone":
        return [("The colours of the objects change.", {"effect": "colours"})]
    if action == "remove":
        place = PLACES[source.item(facts["object"]).cell]
        return [(f"The {place} cell is empty now.", {"effect": "empty", "place": place})]
    if action in ("add", "move"):
        return _neighbour_effects(source, target, facts["object"])
    return []


def _neighbour_effects(source: Scene, target: Scene, reference: dict[str, str]) -> list[Effect]:
    """Objects that stand beside, above or below the object in the target and did not in the source."""
    item, before = target.item(reference), source.find(reference)
    return [
        (
            f"The {item.name} stands next to the {other.name} now.",
            {"effect": "next_to", "object": item.reference, "other": other.reference},
        )
        for other in target.items
        if _adjacent(item, other)
        and (old := source.find(other.reference)) is not None
        and not (before is not None and _adjacent(before, old))
    ]


def _adjacent(one: Item, other: Item) -> bool:
    return abs(one.cell[0] - other.cell[0]) + abs(one.cell[1] - other.cell[1]) == 1


def _pan_effects(source: Scene, target: Scene) -> list[Effect]:
    found = []
    for item in source.items:
        after = target.find(item.reference)
        if after is None:
            found.append((f"The {item.name} leaves the view.", {"effect": "out_of_view", "object": item.reference}))
        else:
            found.append(_now_at(item, after.cell))
    if source.letter and not target.letter:
        found.append(("The letter leaves the view.", {"effect": "out_of_view", "letter": source.letter[0]}))
    return found


def _mirror_effects(source: Scene, axis: str) -> list[Effect]:
    return [_now_at(item, cell) for item in source.items if (cell := mirrored(item.cell, axis)) != item.cell]


def _now_at(item: Item, cell: tuple[int, int]) -> Effect:
    facts = {"effect": "place", "object": item.reference, "place": PLACES[cell]}
    return f"The {item.name} appears at the {PLACES[cell]} now.", facts
