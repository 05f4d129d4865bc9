"""A pair's JSON: what is refused is refused in one sentence, and what is taken can be written and read again."""

import copy
import json

import pytest

from editcaption_mega.files import parse_json
from editcaption_mega.records import EditPair, RecordError

WHOLE = {
    "schema": 1, "id": "a", "category": "semantic", "edit_type": "add", "instruction": "Add a hat.",
    "chosen": "Add a hat.", "rejected": "Remove it.", "failure_modes": ["detail"], "severity": 0.5,
    "changes": {"primary": [{"id": "p1", "text": "a hat", "facts": {"action": "add"}}], "secondary": [],
                "overall": "a hat"},
    "provenance": {"licence": "CC0", "images": {"source": {"notes": ["turned"]}}},
}  # fmt: skip
NESTED = []
for _ in range(60):
    NESTED = [NESTED]
ODD = [
    None, True, False, 0, -1, 7, 0.5, 1e308, 10**30, "", " ", "x", "P0", "a.b", "\x1b[31m", "a\n", "\ud83d", "x" * 5000,
    [], ["a"], [None], {}, {"a": 1}, {"a": float("nan")}, {"a": float("-inf")}, {"\ud83d": 1}, {1: 2}, {"a": "\ude00"},
    {"a": b"x"}, {"a": 10**30}, NESTED, {"a": NESTED}, float("nan"), b"x", object(), (1,), {1},
]  # fmt: skip


def places(value, path=()):
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield (*path, key)
        yield from places(inner, (*path, key))


def test_each_field_may_hold_anything():
    taken = 0
    for path in places(WHOLE):
        for value in ODD:
            row = copy.deepcopy(WHOLE)
            inner = row
            for key in path[:-1]:
                inner = inner[key]
            inner[path[-1]] = value
            try:
                pair = EditPair.from_json(row, where="row 3")
            except RecordError as error:
                text = str(error)
                assert text.startswith("row 3: ") and text.isprintable() and len(text) < 400, text
                continue
            taken += 1
            content = json.dumps(pair.to_json(), ensure_ascii=False, allow_nan=False).encode()
            again = EditPair.from_json(parse_json(content))
            assert again.to_json() == json.loads(content), path
    assert taken > 100


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"provenance": {"score": float("nan")}}, "field 'provenance' holds nan, which JSON has no number for"),
        ({"provenance": {"x": "\ud83d"}}, "field 'provenance' holds half a character"),
        ({"instruction": "Add \ud83d"}, "field 'instruction' holds half a character"),
        ({"instruction": "  "}, "field 'instruction' is '  ': it is empty; give a text or leave the field out"),
        ({"severity": "P0"}, "expected a number from 0 .slight. to 1 .worst.; P0, P1 and P2 are words of"),
        ({"id": 7}, "field 'id' is 7: expected a text, in quotes"),
        ({"id": "x" * 300}, "has 300 characters: at most 200 may be"),
        ({"provenance": NESTED[0] and {"a": NESTED}}, "field 'provenance' is nested more than 50 deep"),
    ],
)
def test_messages_say_the_mend(change, message):
    with pytest.raises(RecordError, match=message):
        EditPair.from_json(WHOLE | change)


def test_fields_that_are_missing_are_named_at_once():
    with pytest.raises(RecordError, match="field 'id' is missing, as are 'category' and 'edit_type'$"):
        EditPair.from_json({"instruction": "Add a hat."})


@pytest.mark.parametrize(
    "text", ["\u200b\u200b", "\u2800", "...", "\u3164", "?!", "➡️", "\u00ad-\u200d", "\u115f \uffa0"]
)
@pytest.mark.parametrize("field", ["instruction", "chosen", "edit_type"])
def test_a_text_has_a_letter_or_a_digit(field, text):
    with pytest.raises(RecordError, match=f"^row: field '{field}' is '.*': it has no letter or digit; give a text or"):
        EditPair.from_json(WHOLE | {field: text})


@pytest.mark.parametrize("text", ["a\0", "\x01\x02", "Make it\x1b[31m blue", "\x00"])
def test_a_text_has_no_control_characters(text):
    with pytest.raises(RecordError, match="it holds a control character .'.x[01].'.; take it out$"):
        EditPair.from_json(WHOLE | {"instruction": text})


@pytest.mark.parametrize("text", ["...", "\ufffd\ufffd", "the orange square\ufffd at the\x02."])
def test_what_a_model_got_wrong_may_be_anything(text):
    assert EditPair.from_json(WHOLE | {"rejected": text}).rejected == text


@pytest.mark.parametrize("text", ["7", "é", "帽", "ไ", "एक", "\u200bx", "a\tb\nc\r\n", "½"])
def test_a_text_is_of_any_script(text):
    assert EditPair.from_json(WHOLE | {"instruction": text}).instruction == text.strip()
