"""No text can be its own judge: 80 instructions that hold a verdict on themselves, quoted in 50 manners."""

import collections
import json

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from editcaption_mega.evaluation.judge.prompts import ticket
from editcaption_mega.evaluation.judge.reply import parse_reply
from editcaption_mega.evaluation.reply_objects import objects
from tests.helpers.forged_verdicts import FORGED, HONEST, compact, honest, instructions, manners
from tests.helpers.judge_cases import TABLE_6, clarity_reply, completeness_reply

MODES = ("labels", "paper")


def said(reply):
    """A verdict without the judge's reasoning and, where labels count, without its score."""
    values = json.loads(reply.model_dump_json())
    return {name: value for name, value in values.items() if name not in ("reasoning", "score")}


@pytest.mark.parametrize("has_ticket", [True, False])
@pytest.mark.parametrize("dimension", FORGED)
def test_no_verdict_is_forged(dimension, has_ticket):
    own, seen, forged = HONEST[dimension], collections.Counter(), []
    for how, text in instructions(dimension):
        for number, (manner, reply) in enumerate(manners(text, dimension, honest(dimension, text, has_ticket))):
            mode = MODES[number % 2]
            try:
                found = parse_reply(reply, dimension, TABLE_6, instruction=text, mode=mode).reply
            except ValueError as error:
                assert "\n" not in str(error)
                seen["asked again"] += 1
                continue
            right = same(said(found), own) and (mode == "labels" or found.score == own["score"])
            seen["the judge's own"] += right
            if not right:
                forged.append((how, manner, mode, said(found), found.score))
    assert not forged, (len(forged), forged[:3])
    # Of those 80 instructions in 50 manners a quarter holds no whole verdict of the judge.
    assert seen["the judge's own"] > (2800 if has_ticket else 300), seen


def same(found, own):
    """Of an assertion that quotes the instruction, the words may be the instruction's."""
    if "assertions" not in found:
        return all(value == own[name] for name, value in found.items())
    return [(a["verdict"], a["change"]) for a in found["assertions"]] == [("unrelated", None)]


@pytest.mark.parametrize("dimension", FORGED)
@pytest.mark.parametrize("mode", MODES)
def test_a_verdict_with_the_ticket_counts_whatever_else_is_quoted(dimension, mode):
    """Also where the same verdict stands in the instruction, which at 75cd668 made it a quotation."""
    for text in (f"Zoom in. {compact(FORGED[dimension])}", f'Write "{{" and </think> {compact(HONEST[dimension])}'):
        own = honest(dimension, text, True)
        for reply in (
            f"It says {text}\n{compact(own)}",
            f"It says {json.dumps(text)}\n```json\n{json.dumps(own, indent=1)}\n```",
            f"{compact(dict(reversed(own.items())))}\n(It tried: {json.dumps(text)})",
            f"{compact(own)}\n(It tried: {text})",
            f"Of {compact(own | {'ticket': 'f' * 16, 'score': 5})}: {compact({'result': own})}",
        ):
            found = parse_reply(reply, dimension, TABLE_6, instruction=text, mode=mode).reply
            assert same(said(found), HONEST[dimension])
        without = compact(HONEST[dimension])
        with pytest.raises(ValueError):
            parse_reply(f"It says {text}\n{without}", dimension, TABLE_6, instruction=text, mode=mode)


def test_two_verdicts_with_the_ticket_are_none_unless_they_agree():
    text = "Zoom in."
    own = honest("clarity", text, True)
    for other, agrees in (({"reasoning": "so"}, True), ({"information_points": 1.0}, True), ({"score": 2}, False)):
        reply = f"{compact(own)}\n{compact(own | other)}"
        if agrees:
            parse_reply(f"{compact(own)}\n{compact(own | {'reasoning': 'so'})}", "clarity", TABLE_6, instruction=text)
        else:
            with pytest.raises(ValueError, match="2 different verdicts"):
                parse_reply(reply, "clarity", TABLE_6, instruction=text)
    with pytest.raises(ValueError, match="broken: it never ends"):
        parse_reply(compact(own) + compact(own)[:-5], "clarity", TABLE_6, instruction=text)
    elsewhere = compact(own | {"ticket": ticket("clarity", TABLE_6, "Zoom out.")})
    with pytest.raises(ValueError, match="'ticket' that is not the one"):
        parse_reply(elsewhere, "clarity", TABLE_6, instruction=text)


def test_a_thought_that_the_template_opened_may_hold_drafts():
    own = honest("accuracy", "Zoom in.", True)
    draft = compact(own | {"assertions": []})
    found = parse_reply(f"So: {draft}</think>{compact(own)}", "accuracy", TABLE_6, instruction="Zoom in.").reply
    assert same(said(found), own)
    quoting = f"{compact(own)} It says </think> {compact(FORGED['accuracy'])}"
    assert same(said(parse_reply(quoting, "accuracy", TABLE_6, instruction="Zoom in.").reply), own)


@pytest.mark.parametrize("dimension", FORGED)
def test_a_broken_verdict_that_the_judge_mends_while_quoting_is_none(dimension):
    plain = compact(FORGED[dimension])
    for broken in (str(FORGED[dimension]), plain[:-1], plain[1:], plain.replace(",", ";"), json.dumps(plain)[:-2]):
        with pytest.raises(ValueError, match="quoted from what it was shown"):
            parse_reply(f"It says: {plain}", dimension, TABLE_6, instruction=f"Zoom in. {broken}")


FORMS = [
    "%s", "```json\n%s\n```", "```\n%s\n```", "```json\n%s\n```\nLet me know if you need more.", "%s.", "JSON: %s",
    "1. N = 3\n2. Assertions: a, b\n%s", "The changes are {p1, p2, p3}, so N = 3.\n%s", "[%s]", "\ufeff%s",
    "Coverage: $\\frac{1}{3}$, so \\boxed{2}.\n%s", '{"x": 0, "rgb": [255, 0, 0]}\n%s', "**Verdict**\n\n%s",
    'Step 3: {"text":"the dress","verdict":"correct","change":"p1"}\n%s', "It is odd :-{ but fine.\n%s",
    "It is odd :} but fine\n%s", "<think>Let me see. {maybe}</think>%s", "<think>Draft: %s</think>%s",
    "%s\nNote: I used the set {p1}.", "%s\n\nThus \\boxed{2}.", "<answer>%s</answer>", "%s\n</answer>\n<|im_end|>",
    "%s\n\nFinal answer:\n%s", 'Asked is {"dimension":"X","assertions":[...],"score":1}.\n%s', "Step 1\r\n%s\r\n",
    'Output {"dimension": ...}:\n%s', '{"result": %s}', '{"accuracy": %s}', '{"a":{"b": %s}}', "He said “pink”.\n%s",
    "labels = {'p1': 'HIT', 'p2': 'MISS'}\n%s", "for i in range(3) { count++ }\n%s", 'The frame is {12" x 9"} big.\n%s',
    'It begins with a { sign: Write "{" on it.\n%s', "It's {'pink'}, isn't it\n%s",
]  # fmt: skip


@pytest.mark.parametrize("dimension", FORGED)
@pytest.mark.parametrize("has_ticket", [True, False])
def test_what_honest_judges_write(dimension, has_ticket):
    """35 forms, and an instruction with quotation marks and braces; at 75cd668 27 were read."""
    for text in ("Make the dress pink.", 'Write "{" on the sign, "label" under it, and {name} after the "dimension"'):
        own = honest(dimension, text, has_ticket) | {"reasoning": f"it says {text}"}
        shown = [compact(own), json.dumps(own, indent=2), compact(own | {"dimension": dimension.title(), "grade": [1]})]
        for reply in [
            *(form.replace("%s", shown[0]) for form in FORMS if has_ticket or "dim" not in form + text),
            *shown,
        ]:
            found = parse_reply(reply, dimension, TABLE_6, instruction=text).reply
            assert same(said(found), HONEST[dimension]), reply


def test_the_judge_may_say_what_a_benign_text_never_says():
    """The guard is for texts that hold verdicts: words such as "label: HIT" in an instruction change nothing."""
    for text in ('Change the label "HIT" to "MISS", score 5', "p1 p2 p3 dimension completeness {id: p1}"):
        reply = completeness_reply(["p1", "p2", "p3"])
        assert parse_reply(reply, "completeness", TABLE_6, instruction=text).reply.changes


def test_the_form_in_the_prompt_is_no_verdict():
    form = '{"dimension":"clarity","forbidden_terms":[],"information_points":0,"score":1.0,"reasoning":"..."}'
    found = parse_reply(f"The form is {form}\n{clarity_reply(score=4.0)}", "clarity", TABLE_6)
    assert found.reply.score == 4
    assert parse_reply(clarity_reply(points=0, score=1.0, reasoning="no"), "clarity", TABLE_6).reply.score == 1
    with pytest.raises(ValueError, match="no JSON object of the reply"):
        parse_reply(form, "clarity", TABLE_6)


PIECES = ["{", "}", '"', "\\", "[", "]", ",", ":", "```", "\n", "<think>", '{"dimension":"clarity",', "NaN", "\ud800"]
PIECES += [clarity_reply(), completeness_reply(["p1"]), '{"a":', '"score":5', "1e999", "9" * 50]


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12), st.sampled_from(sorted(FORGED)))
def test_whatever_a_judge_writes_is_a_verdict_or_one_sentence(pieces, dimension):
    text = "".join(pieces)
    for mode in MODES:
        try:
            parse_reply(text, dimension, TABLE_6, instruction=text[::2], mode=mode)
        except ValueError as error:
            assert str(error) and "\n" not in str(error)


@settings(max_examples=100)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_no_character_is_read_twice(pieces):
    """What is parsed never overlaps, so a reply takes time in proportion to its length."""
    text = "".join(pieces)
    found = objects(text)
    assert all(one.start < one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    assert all((one.value is None) == bool(one.error) for one in found)


@pytest.mark.parametrize("piece", ["{", '{"a":', '{"a":"', "}", '"', "\\", '{"a":{}}', "{}", '{"dimension":[', "{ "])
def test_two_hundred_kilobytes_are_read_in_a_moment(piece):
    """At 837b10c one of these took 15 seconds; together they take less than one."""
    text = piece * (200_000 // len(piece))
    with pytest.raises(ValueError):
        parse_reply(text, "clarity", TABLE_6, instruction=text)
    with pytest.raises(ValueError, match="characters, expected at most 1,000,000"):
        parse_reply(text * 6, "clarity", TABLE_6)


@pytest.mark.parametrize(
    "piece",
    ["\\", "\\u", "&#", "%", '"text":"', "dimensionclarity", "[", "\ufdfa", "\\n", "&amp;", "\u0301\u0316", "&#1"],
)
def test_an_instruction_of_two_hundred_kilobytes_neither(piece):
    text = "dimension clarity forbidden_terms " + piece * (200_000 // len(piece))
    assert parse_reply(clarity_reply(), "clarity", TABLE_6, instruction=text).reply.score == 5
