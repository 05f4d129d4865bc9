"""A judge's reply is read strictly: what is forgiven is told, everything else is refused in a sentence."""

import json

import pytest

from editcaption_mega.evaluation.judge.reply import parse_reply
from tests.helpers.judge_cases import TABLE_6, accuracy_reply, clarity_reply, completeness_reply

COMPLETE = completeness_reply(["p1"])


def changed(reply, **fields):
    row = json.loads(reply) | fields
    return json.dumps({key: value for key, value in row.items() if value is not ...})


@pytest.mark.parametrize(
    "before, after, repairs",
    [
        ("", "", []),
        ("Step 1: p1 HIT {not json} {\"a\": 1}\n", "  \n", []),  # the steps that the prompt asks for are no fault
        ("```json\n", "\n```", ["code fence removed"]),
        ("", " I hope this helps.", ["18 characters after the object ignored"]),
        ("", ' {"a": 1}', ["8 characters after the object ignored"]),
        ("```", "``` Done", ["code fence removed", "4 characters after the object ignored"]),
    ],
)  # fmt: skip
def test_S2_the_last_json_object_counts(before, after, repairs):
    found = parse_reply(before + COMPLETE + after, "completeness", TABLE_6)
    assert found.reply.dimension == "completeness" and list(found.repairs) == repairs
    assert [label.label for label in found.reply.changes] == ["HIT", "MISS", "MISS"]


def test_S2_two_different_verdicts_are_none():
    """At 837b10c the last one counted, so that a quotation after the verdict took its place."""
    second = completeness_reply(["p1", "p2"])
    with pytest.raises(ValueError, match="the reply holds 2 different verdicts, expected one"):
        parse_reply(COMPLETE + "\nOn second thoughts:\n" + second, "completeness", TABLE_6)
    again = json.dumps(json.loads(COMPLETE) | {"reasoning": "as I said"}, indent=1)
    found = parse_reply(f"{COMPLETE}\nSo:\n{again}", "completeness", TABLE_6)
    assert [label.label for label in found.reply.changes] == ["HIT", "MISS", "MISS"]


@pytest.mark.parametrize("reply", [accuracy_reply(("correct", "p1")), COMPLETE])
def test_B4_what_labels_mode_does_not_use_does_not_matter(reply):
    dimension = json.loads(reply)["dimension"]
    labels = parse_reply(reply, dimension, TABLE_6).reply
    for fields in (
        {"score": 9}, {"score": None}, {"score": ...}, {"score": "5"}, {"reasoning": ...}, {"reasoning": 3},
        {"grade": 5}, {"reasoning": ["a"], "score": [1], "confidence": {"x": 1}},
    ):  # fmt: skip
        found = parse_reply(changed(reply, **fields), dimension, TABLE_6).reply
        name = "assertions" if dimension == "accuracy" else "changes"
        assert getattr(found, name) == getattr(labels, name)
        assert found.score == (None if "score" in fields else 5)
        if "score" in fields or fields == {"reasoning": ...}:
            with pytest.raises(ValueError, match="score|reasoning"):
                parse_reply(changed(reply, **fields), dimension, TABLE_6, mode="paper")
    rows = [{"text": "it", "verdict": "correct", "change": "p1", "why": "seen"}]
    assert parse_reply(changed(accuracy_reply(), assertions=rows), "accuracy", TABLE_6).reply.assertions[0].text == "it"


@pytest.mark.parametrize(
    "text, told",
    [
        ("", "holds no whole JSON object: it is empty"),
        ("The score is 5.", "no whole JSON object: it ends with 'The score is 5.'"),
        (COMPLETE[:-1], "a JSON object of the reply is broken: it never ends"),
        ("{} " + COMPLETE[:-1], "a JSON object of the reply is broken: it never ends"),
        (COMPLETE + COMPLETE[:-1], "a JSON object of the reply is broken"),
        (COMPLETE.replace('"label"', "label"), "a JSON object of the reply is broken: not valid JSON"),
        ("{" * 3000, "no whole JSON object"),
        ('{"a":' * 90_000, "nested too deeply"),
        ("[1, 2]", "no whole JSON object"),
        (changed(COMPLETE, dimension="accuracy"), "is about 'accuracy', expected 'completeness'"),
        (changed(COMPLETE, dimension=...), "has a field 'dimension'"),
        (changed(COMPLETE, ticket="0" * 16), "a 'ticket' that is not the one of this request"),
        (changed(COMPLETE, secondary_hits=...), "field 'secondary_hits' is missing"),
        (COMPLETE[:-1] + ', "score": 4}', "key 'score' occurs twice"),
    ],
)
def test_S2_what_is_no_reply_is_told(text, told):
    with pytest.raises(ValueError) as error:
        parse_reply(text, "completeness", TABLE_6)
    assert told in str(error.value) and "\n" not in str(error.value)


@pytest.mark.parametrize("score", [0, 5.5, -1, "5", True, None, float("nan"), [5]])
@pytest.mark.parametrize("reply", [accuracy_reply(), COMPLETE, clarity_reply()])
def test_S3_a_score_is_a_number_from_1_to_5(reply, score):
    dimension = json.loads(reply)["dimension"]
    with pytest.raises(ValueError, match="score|NaN"):
        parse_reply(changed(reply, score=score), dimension, TABLE_6, mode="paper")


@pytest.mark.parametrize(
    "changes, told",
    [
        ([("p1", "HIT"), ("p2", "HIT")], "primary change 'p3' has 0 labels"),
        ([("p1", "HIT"), ("p2", "HIT"), ("p3", "HIT"), ("p1", "MISS")], "primary change 'p1' has 2 labels"),
        ([("p1", "HIT"), ("p2", "HIT"), ("P3", "HIT")], "'changes' names 'P3', expected one of p1, p2, p3"),
        ([("p1", "HIT"), ("p2", "HIT"), ("p3", "HIT"), ("s1", "HIT")], "'changes' names 's1'"),
        ([("p1", "HIT"), ("p2", "HIT"), ("p3", "PARTIAL")], "PARTIAL"),
    ],
)
def test_C1_every_primary_change_has_one_label(changes, told):
    rows = [{"id": one, "label": label} for one, label in changes]
    with pytest.raises(ValueError) as error:
        parse_reply(changed(COMPLETE, changes=rows), "completeness", TABLE_6)
    assert told in str(error.value)


@pytest.mark.parametrize(
    "reply, told",
    [
        (completeness_reply([], ["p1"]), "'secondary_hits' names 'p1', expected one of s1"),
        (accuracy_reply(("correct", "p9")), "'assertions' names 'p9', expected one of p1, p2, p3, s1"),
        (accuracy_reply(("right", "p1")), "verdict"),
        (changed(accuracy_reply(), assertions="none"), "assertions"),
        (changed(clarity_reply(), information_points=2.5), "information_points"),
        (changed(clarity_reply(), information_points=-1), "information_points"),
        (changed(clarity_reply(), forbidden_terms=[3]), "forbidden_terms"),
    ],
)
def test_unknown_ids_and_ill_typed_fields_are_refused(reply, told):
    with pytest.raises(ValueError) as error:
        parse_reply(reply, json.loads(reply)["dimension"], TABLE_6)
    assert told in str(error.value)
