"""Naming of changes: strict where the facts differ, and the right failure mode where they nearly agree."""

import pytest

from editcaption_mega.data.synthetic import WorldSettings, plan_pair
from editcaption_mega.data.synthetic.named_changes import WrongClaim, named_changes, wrong_claims
from editcaption_mega.records import Change, Changes

RED = {"colour": "red", "shape": "circle"}
BLUE = {"colour": "blue", "shape": "star"}
MOVE = {"action": "move", "object": RED, "direction": "left"}
RECOLOUR = {"action": "recolour", "object": BLUE, "to": "green"}
ADD = {"action": "add", "object": {**RED, "size": "small"}, "place": "top left"}
PAN = {"action": "camera_pan", "direction": "left"}
ZOOM = {"action": "camera_zoom", "direction": "in"}
MIRROR = {"action": "mirror", "axis": "horizontal"}
COUNT = {"action": "count", "object": RED, "count": 3}
TEXT = {"action": "text", "from": "H", "to": "K"}


def truth(*facts):
    return Changes(primary=[Change(id=f"p{n}", text="t", facts=f) for n, f in enumerate(facts, 1)], overall="o")


def test_every_generated_instruction_names_its_own_changes():
    for index in range(200):
        pair = plan_pair(WorldSettings(), 8, index).pair
        verdicts = named_changes(pair.instruction, pair.changes)
        assert [verdict.change_id for verdict in verdicts] == [change.id for change in pair.changes.primary]
        assert all(verdict.named and verdict.failure_modes == () for verdict in verdicts)
        assert wrong_claims(pair.instruction, pair.changes) == []


@pytest.mark.parametrize(
    ("facts", "instruction", "modes"),
    [
        (MOVE, "Move the red circle one cell right.", ("orientation",)),
        (MOVE, "Move the blue circle one cell left.", ("detail",)),
        (MOVE, "Move the blue circle one cell right.", ("detail",)),
        (MOVE, "Pan the camera right by one cell.", ("viewpoint",)),
        (MOVE, "Remove the red circle from the picture.", ()),
        (MOVE, "A lovely picture.", ()),
        (ADD, "Add a small red circle at the top right.", ("orientation",)),
        (ADD, "Add a large red circle at the top left.", ("detail",)),
        (ADD, "Add a red circle at the top left.", ("detail",)),
        (RECOLOUR, "Paint the blue star red.", ("detail",)),
        (RECOLOUR, "Paint the star green.", ("detail",)),
        (COUNT, "Set the number of red circles to two.", ("detail",)),
        (TEXT, "Change the letter H to B.", ("detail",)),
        (TEXT, "Write the letter K at the center.", ("detail",)),
        (PAN, "Pan the camera right by one cell.", ("orientation", "viewpoint")),
        (PAN, "Move the red circle one cell right.", ("viewpoint",)),
        (PAN, "Zoom the camera in.", ("viewpoint",)),
        (PAN, "", ("viewpoint",)),
        (ZOOM, "Zoom the camera out.", ("viewpoint",)),
        (MIRROR, "Flip the whole picture vertically.", ("orientation", "viewpoint")),
    ],
)
def test_failure_modes(facts, instruction, modes):
    (verdict,) = named_changes(instruction, truth(facts))
    assert not verdict.named and verdict.failure_modes == modes


def test_hybrids_are_judged_clause_by_clause_in_any_order():
    both = named_changes("Move the red circle one cell left and paint the blue star green.", truth(RECOLOUR, MOVE))
    assert [verdict.named for verdict in both] == [True, True]
    half = named_changes("Paint the blue star red, then move the red circle one cell left.", truth(RECOLOUR, MOVE))
    assert [(verdict.named, verdict.failure_modes) for verdict in half] == [(False, ("detail",)), (True, ())]
    assert half[0].claim == {**RECOLOUR, "to": "red"}


def test_wrong_claims_tell_a_slip_from_an_invention():
    text = "Paint the blue star red, then move the red circle one cell left, also zoom the camera in."
    assert wrong_claims(text, truth(RECOLOUR, MOVE)) == [
        WrongClaim({**RECOLOUR, "to": "red"}, mistaken_for="p1"),
        WrongClaim(ZOOM, mistaken_for=None),
    ]
    twice = "Move the red circle one cell left and move the red circle one cell left."
    assert wrong_claims(twice, truth(MOVE)) == [WrongClaim(MOVE, mistaken_for=None)]


def test_an_unreadable_instruction_names_nothing_and_claims_nothing():
    assert not named_changes("???", truth(MOVE))[0].named
    assert wrong_claims("???", truth(MOVE)) == []


def test_truth_without_facts_is_refused():
    with pytest.raises(ValueError, match="no facts"):
        named_changes("x", Changes(primary=[Change(id="p1", text="t")], overall="o"))
