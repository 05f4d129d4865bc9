"""Edits: what the facts say is what the pictures show, and nothing else in the grammar would show the same."""

import random

import numpy as np
import pytest

from editcaption_mega.data.synthetic import (
    EDIT_TYPES,
    EditError,
    Item,
    Scene,
    WorldSettings,
    apply_edits,
    plan_pair,
    render,
)
from editcaption_mega.data.synthetic.edits import apply_edit, draw_edit
from editcaption_mega.data.synthetic.effects import describe_changes
from editcaption_mega.data.synthetic.phrasing import every_facts
from editcaption_mega.data.synthetic.scene import CELL_OF, DIRECTIONS, PLACES

SETTINGS = WorldSettings()
RED, BLUE = {"colour": "red", "shape": "circle"}, {"colour": "blue", "shape": "star"}
SCENE = Scene("white", (Item("circle", "red", (0, 0)), Item("star", "blue", (0, 1), "small")))


def edits_of(pair):
    return [change.facts for change in pair.changes.primary]


@pytest.mark.parametrize("edit_type", EDIT_TYPES)
def test_the_truth_is_the_only_single_edit_that_gives_the_target(edit_type):
    settings = WorldSettings(edit_types=(edit_type,))
    single = list(every_facts())
    for index in range(6):
        plan = plan_pair(settings, 3, index)
        target = render(plan.target, settings).tobytes()
        readings = []
        for facts in single:
            try:
                reached = apply_edit(plan.source, facts)
            except EditError:
                continue
            if render(reached, settings).tobytes() == target:
                readings.append(facts)
        assert readings == ([] if edit_type == "hybrid" else edits_of(plan.pair))


def test_the_facts_lead_from_source_to_target():
    for index in range(200):
        plan = plan_pair(SETTINGS, 9, index)
        reached = apply_edits(plan.source, edits_of(plan.pair))
        assert render(reached, SETTINGS).tobytes() == render(plan.target, SETTINGS).tobytes()


@pytest.mark.parametrize("camera", DIRECTIONS)
def test_the_camera_pans_one_way_and_the_content_goes_the_other(camera):
    scene = Scene("white", (Item("circle", "red", (1, 1)), Item("star", "blue", (1, 1))))
    target = apply_edit(scene, {"action": "camera_pan", "direction": camera})
    opposite = {"left": "middle right", "right": "middle left", "up": "bottom center", "down": "top center"}[camera]
    assert {item.cell for item in target.items} == {CELL_OF[opposite]}


@pytest.mark.parametrize(("axis", "numpy_axis"), [("horizontal", 1), ("vertical", 0)])
def test_a_mirror_reverses_the_picture_along_its_axis(axis, numpy_axis):
    scene = Scene("white", (*SCENE.items, Item("star", "red", (1, 0))), letter=("K", (2, 0)))
    if axis == "vertical":
        scene = Scene("white", (*SCENE.items, Item("star", "red", (1, 0))))
    target = apply_edit(scene, {"action": "mirror", "axis": axis})
    source, after = np.asarray(render(scene, SETTINGS)), np.asarray(render(target, SETTINGS))
    assert np.array_equal(after, np.flip(source, numpy_axis))


def test_a_move_goes_where_it_says():
    target = apply_edit(SCENE, {"action": "move", "object": RED, "direction": "down"})
    assert target.find(RED).cell == (1, 0)


@pytest.mark.parametrize(
    "facts",
    [
        {"action": "move", "object": RED, "direction": "right"},  # taken
        {"action": "move", "object": RED, "direction": "up"},  # outside
        {"action": "recolour", "object": RED, "to": "red"},
        {"action": "resize", "object": BLUE, "to": "small"},
        {"action": "retexture", "object": BLUE, "to": "striped"},  # small
        {"action": "add", "object": {**RED, "size": "small"}, "place": "center"},  # there already
        {"action": "add", "object": RED, "place": "center"},  # no size
        {"action": "replace", "object": RED, "with": {"colour": "blue", "shape": "circle"}},  # a recolour
        {"action": "camera_pan", "direction": "down"},  # everything leaves
        {"action": "background", "to": "white"},
        {"action": "text", "from": "K", "to": "H"},
        {"action": "remove", "object": {"shape": "circle"}},
        {"action": "fly"},
    ],
)
def test_impossible_or_ambiguous_edits_are_refused(facts):
    with pytest.raises(EditError):
        apply_edit(SCENE, facts)


def test_a_symmetric_layout_is_not_mirrored_and_a_black_one_not_toned():
    symmetric = Scene("white", (Item("circle", "black", (0, 0)), Item("star", "black", (0, 2))))
    with pytest.raises(EditError, match="symmetric"):
        apply_edit(symmetric, {"action": "mirror", "axis": "horizontal"})
    with pytest.raises(EditError, match="coloured"):
        apply_edit(symmetric, {"action": "tone", "to": "grayscale"})


def test_a_hybrid_that_depends_on_its_order_is_refused():
    move_into_freed_cell = [
        {"action": "remove", "object": BLUE},
        {"action": "move", "object": RED, "direction": "right"},
    ]
    with pytest.raises(EditError):
        apply_edits(SCENE, move_into_freed_cell)
    same_object = [
        {"action": "recolour", "object": RED, "to": "green"},
        {"action": "resize", "object": RED, "to": "small"},
    ]
    with pytest.raises(EditError, match="different objects"):
        apply_edits(SCENE, same_object)


def test_draw_edit_gives_none_where_nothing_fits():
    full = Scene("white", (Item("circle", "black", (1, 1)),))
    assert draw_edit(full, "mirror", random.Random(0)) is None


def test_secondary_changes_are_true_and_have_their_own_ids():
    found = set()
    for index in range(300):
        plan = plan_pair(SETTINGS, 4, index)
        changes = plan.pair.changes
        assert [change.id for change in changes.primary] == ["p1", "p2"][: len(changes.primary)]
        assert [change.id for change in changes.secondary] == [f"s{n + 1}" for n in range(len(changes.secondary))]
        for facts in (change.facts for change in changes.secondary):
            found.add(facts["effect"])
            if facts["effect"] == "empty":
                assert CELL_OF[facts["place"]] not in plan.target.occupied
            if facts["effect"] == "next_to":
                a, b = plan.target.find(facts["object"]).cell, plan.target.find(facts["other"]).cell
                assert abs(a[0] - b[0]) + abs(a[1] - b[1]) == 1
    assert found == {"empty", "next_to", "place", "out_of_view", "apparent_size", "colours"}


def test_a_moved_object_that_comes_to_stand_by_another_says_so():
    scene = Scene("white", (Item("circle", "red", (0, 0)), Item("star", "blue", (1, 1))))
    facts = {"action": "move", "object": RED, "direction": "down"}
    changes = describe_changes(scene, apply_edit(scene, facts), [facts])
    assert [change.text for change in changes.secondary] == ["The red circle stands next to the blue star now."]
    assert PLACES[(0, 0)] in changes.overall
