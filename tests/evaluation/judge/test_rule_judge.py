"""The rule judge on written cases, and on what the synthetic world itself says."""

from collections import Counter

import pytest

from editcaption_mega.data.synthetic import WorldSettings, parse, plan_pair
from editcaption_mega.evaluation.judge.reply_scores import accuracy_of
from editcaption_mega.evaluation.judge.rule_judge import assertions, judge
from editcaption_mega.records import Change, Changes

RED, BLUE = {"colour": "red", "shape": "circle"}, {"colour": "blue", "shape": "star"}


def truth(*facts):
    return Changes(
        primary=[Change(id=f"p{i}", text="a change", facts=fact) for i, fact in enumerate(facts)],
        secondary=[],
        overall="a change",
    )


MOVE = {"action": "move", "object": RED, "direction": "left"}
RECOLOUR = {"action": "recolour", "object": BLUE, "to": "green"}
ZOOM = {"action": "camera_zoom", "direction": "in"}


def scores(text, *facts):
    found = judge(text, truth(*facts))
    return found.accuracy, found.completeness, found.clarity


def test_the_truth_scores_five():
    for index in range(60):
        pair = plan_pair(WorldSettings(), 4, index).pair
        found = judge(pair.instruction, pair.changes)
        assert (found.accuracy, found.completeness, found.clarity, found.weighted) == (5, 5.0, 5.0, 5.0), pair
        assert found.correct and not found.failure_modes


@pytest.mark.parametrize(
    "text, facts, expected",
    [
        ("Move the red circle one cell right", (MOVE,), (3, 5.0, 5.0)),  # wrong attribute: a HIT, one major error
        ("Move the red circle one cell right and recolour the blue star to red", (MOVE, RECOLOUR), (2, 5.0, 5.0)),
        ("Recolour the blue star to green", (MOVE, RECOLOUR), (5, 3.0, 5.0)),  # half of it, all true
        ("Recolour the star to green", (RECOLOUR,), (5, 5.0, 4.0)),  # says less: clarity, not accuracy
        ("Recolour the blue star to green and make the camera zoom in", (RECOLOUR,), (2, 5.0, 5.0)),
        ("", (MOVE,), (1, 1.0, 1.0)),
        ("gr rr the of", (MOVE,), (1, 1.0, 1.0)),
        ("Recolour it to green", (MOVE,), (1, 1.0, 1.0)),
    ],
)
def test_written_cases(text, facts, expected):
    assert scores(text, *facts) == expected


def test_a_reversed_operation_is_a_miss():
    pairs = [plan_pair(WorldSettings(), 4, i).pair for i in range(400)]
    zooms = {p.changes.primary[0].facts["direction"]: p for p in pairs if p.edit_type == "camera_zoom"}
    found = judge(zooms["out"].instruction, zooms["in"].changes)
    assert not found.hits and found.completeness == 1.0 and found.accuracy == 3 and found.failure_modes == {"viewpoint"}


def test_forbidden_terms_lower_clarity_only():
    found = judge("Recolour the blue star to green, slightly", truth(RECOLOUR))
    assert (found.accuracy, found.completeness, found.clarity) == (5, 5.0, 3.0) and found.forbidden == ("slightly",)


def test_its_labels_give_its_score():
    """What a judge model would be scored by: the truth, another pair's text, a captioner's mistakes, parts left out."""
    erring = WorldSettings(caption_mistakes={"orientation": 1.0, "detail": 1.0})
    accuracies = Counter()
    for index in range(200):
        pair, other, mistaken = (
            plan_pair(world, 4, i).pair
            for world, i in ((WorldSettings(), index), (WorldSettings(), index + 1), (erring, index))
        )
        for text in (
            pair.instruction,
            other.instruction,
            mistaken.instruction,
            f"{other.instruction} {pair.instruction}",
        ):
            labels, found = assertions(text, pair.changes), judge(text, pair.changes)
            assert accuracy_of(labels, pair.changes)[0] == found.accuracy, (text, pair.changes)
            assert all(label.text in text for label in labels) and len(labels) == len(parse(text))
            assert {label.change for label in labels if label.verdict == "correct"} >= set(found.named)
            accuracies[found.accuracy] += 1
    assert set(accuracies) == {1, 2, 3, 5}, "a minor error is nothing that the grammar can say"


def test_pairs_without_facts_are_refused():
    with pytest.raises(ValueError, match="has no facts"):
        judge("x", Changes(primary=[Change(id="p1", text="a hat")], overall="a change"))
