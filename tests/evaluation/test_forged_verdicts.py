"""No text can be its own judge: 50 instructions that hold a verdict on themselves, quoted in 50 manners."""

import collections
import json

import pytest
from forged_verdicts import FORGED, HONEST, compact, instructions, manners
from hypothesis import given, settings
from hypothesis import strategies as st
from judge_cases import TABLE_6, clarity_reply, completeness_reply

from editcaption_mega.evaluation.judge_reply import parse_reply
from editcaption_mega.evaluation.reply_objects import spans

MODES = ("labels", "paper")


def said(reply):
    """A verdict without the judge's reasoning and, where labels count, without its score."""
    values = json.loads(reply.model_dump_json())
    return {name: value for name, value in values.items() if name not in ("reasoning", "score")}


def honest(dimension):
    return said(parse_reply(compact(HONEST[dimension]), dimension, TABLE_6).reply)


@pytest.mark.parametrize("dimension", FORGED)
def test_no_verdict_is_forged(dimension):
    own, seen, forged = honest(dimension), collections.Counter(), []
    for how, text in instructions(dimension):
        for number, (manner, reply) in enumerate(manners(text, dimension)):
            for mode in MODES if number % 5 == 0 else (MODES[number % 2],):
                try:
                    found = parse_reply(reply, dimension, TABLE_6, instruction=text, mode=mode).reply
                except ValueError as error:
                    assert "\n" not in str(error)
                    seen["asked again"] += 1
                    continue
                right = same(said(found), own) and (mode == "labels" or found.score == HONEST[dimension]["score"])
                seen["the judge's own"] += right
                if not right:
                    forged.append((how, manner, mode, said(found), found.score))
    assert not forged, (len(forged), forged[:3])
    assert seen["the judge's own"] > 600, seen  # quoting alone does not make a reply useless


def same(found, own):
    """Of an assertion that quotes the instruction, the words may be the instruction's."""
    if "assertions" not in found:
        return found == own
    return [(a["verdict"], a["change"]) for a in found["assertions"]] == [("unrelated", None)]


@pytest.mark.parametrize("dimension", FORGED)
@pytest.mark.parametrize("mode", MODES)
def test_an_honest_verdict_after_a_quotation_counts(dimension, mode):
    text = f"Zoom in. {compact(FORGED[dimension])}"
    for reply in (
        f"It says {text}\n{compact(HONEST[dimension])}",
        f"It says {json.dumps(text)}\n```json\n{json.dumps(HONEST[dimension], indent=1)}\n```",
        f"{compact(HONEST[dimension])}\n(It tried: {text})",
    ):
        found = parse_reply(reply, dimension, TABLE_6, instruction=text, mode=mode).reply
        assert said(found) == honest(dimension)


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
    with pytest.raises(ValueError, match="quoted from what it was shown"):
        parse_reply(form, "clarity", TABLE_6)


PIECES = ["{", "}", '"', "\\", "[", "]", ",", ":", "```", "\n", "<think>", '{"dimension":"clarity",', "NaN", "\ud800"]
PIECES += [clarity_reply(), completeness_reply(["p1"]), '{"a":', '"score":5', "1e999", "9" * 50]


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES) | st.text(max_size=5), max_size=12), st.sampled_from(sorted(FORGED)))
def test_whatever_a_judge_writes_is_a_verdict_or_one_sentence(pieces, dimension):
    text = "".join(pieces)
    for mode in MODES:
        try:
            parse_reply(text, dimension, TABLE_6, instruction=text[::2], mode=mode)
        except ValueError as error:
            assert str(error) and "\n" not in str(error)


@settings(max_examples=100, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=40))
def test_no_character_is_read_twice(pieces):
    """What is parsed never overlaps, so a reply takes time in proportion to its length."""
    text = "".join(pieces)
    found = spans(text)
    assert all(one.end <= other.start for one, other in zip(found, found[1:], strict=False))
    assert all(span.closed or span is found[-1] for span in found)
    assert sum(span.end - span.start for span in found) <= len(text)


@pytest.mark.parametrize("piece", ["{", '{"a":', '{"a":"', "}", '"', "\\", '{"a":{}}', "{}", '{"dimension":[', "{ "])
def test_two_hundred_kilobytes_are_read_in_a_moment(piece):
    """At 837b10c one of these took 15 seconds; together they take less than one."""
    text = piece * (200_000 // len(piece))
    with pytest.raises(ValueError):
        parse_reply(text, "clarity", TABLE_6, instruction=text)
    with pytest.raises(ValueError, match="characters, expected at most 1,000,000"):
        parse_reply(text * 6, "clarity", TABLE_6)


@pytest.mark.parametrize(
    "piece", ["\\", "\\u", "&#", "%", '"text":"', "dimensionclarity", "[", "\ufdfa", "\\n", "&amp;"]
)
def test_an_instruction_of_two_hundred_kilobytes_neither(piece):
    text = "dimension clarity forbidden_terms " + piece * (200_000 // len(piece))
    assert parse_reply(clarity_reply(), "clarity", TABLE_6, instruction=text).reply.score == 5
