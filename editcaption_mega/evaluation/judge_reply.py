"""A judge's reply, read strictly: labels about known changes, or one sentence that says what is wrong with it.

Only what is used is held to a form: in labels mode the judge's own score of accuracy and completeness, its reasoning
and further fields do not matter. What the judge quotes from the texts that it judges is no verdict."""

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from editcaption_mega.records import Assertion, Changes
from editcaption_mega.records.record import first_sentence

from .judge_prompts import judge_prompt
from .quoted_verdicts import Quotable
from .reply_objects import Span, ending, last_object, spans

Mode = Literal["labels", "paper"]  # whether the labels count or the judge's own numbers

# The judge's own number; in labels mode only clarity's counts, the others are computed from labels.
OwnScore = Annotated[float, Field(ge=1, le=5, strict=True)]
_OWN_SCORE = TypeAdapter(OwnScore)


class Reply(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    score: OwnScore | None = None
    reasoning: str = ""


class AccuracyReply(Reply):
    dimension: Literal["accuracy"]
    assertions: list[Assertion]


class Label(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str
    label: Literal["HIT", "MISS"]


class CompletenessReply(Reply):
    dimension: Literal["completeness"]
    changes: list[Label]
    secondary_hits: list[str]


class ClarityReply(Reply):
    dimension: Literal["clarity"]
    forbidden_terms: list[str]
    information_points: Annotated[int, Field(ge=0, strict=True)]


_KINDS = {"accuracy": AccuracyReply, "completeness": CompletenessReply, "clarity": ClarityReply}
_LABELS = {
    "accuracy": ("assertions",),
    "completeness": ("changes", "secondary_hits"),
    "clarity": ("forbidden_terms", "information_points", "score"),
}


@dataclass(frozen=True)
class ParsedReply:
    reply: AccuracyReply | CompletenessReply | ClarityReply
    repairs: tuple[str, ...]  # what was forgiven, in words; for the row's provenance


def parse_reply(
    text: str, dimension: str, truth: Changes, *, instruction: str = "", mode: Mode = "labels"
) -> ParsedReply:
    """The one verdict about `dimension` in a reply. Text before it is the steps that the prompt asks for; a code fence
    and text after it are forgiven and told in `repairs`.

    Raises ValueError with one sentence: no verdict or two different ones, one that stands in `instruction` or in the
    ground truth, one that is cut off or broken, one of another dimension, missing, unknown or ill-typed fields that
    are used, a primary change without a label or with two, an id that the truth lacks."""
    value, end = _verdict(text, dimension, truth, instruction, mode)
    values = _used(value, dimension, mode)
    try:
        reply = _KINDS[dimension].model_validate(values)
    except ValidationError as error:
        raise ValueError(f"the reply's JSON object: {first_sentence(error)}") from None
    _check_ids(reply, truth)
    return ParsedReply(reply, _repairs(text, end))


def _verdict(text: str, dimension: str, truth: Changes, instruction: str, mode: Mode) -> tuple[dict[str, Any], int]:
    """(the judge's verdict, where it ends in the reply)."""
    found = spans(text)
    if not any(span.closed for span in found):
        raise ValueError(f"the reply holds no whole JSON object: it {ending(text)}")
    quotable = Quotable([instruction, *(one.text for one in truth.primary + truth.secondary), truth.overall])
    verdicts = [(span, value) for span in found if (value := _read(span, quotable)) and "dimension" in value]
    if not verdicts:
        raise ValueError("no JSON object of the reply has a field 'dimension'")
    about = [(span, value) for span, value in verdicts if value["dimension"] == dimension]
    if not about:
        raise ValueError(
            f"the reply's JSON object is about {verdicts[-1][1]['dimension']!r:.80}, expected {dimension!r}"
        )
    fields = (*_LABELS[dimension], *(("score",) if mode == "paper" else ()))
    example = _example(dimension)
    own = [one for one in about if one[1] != example and not quotable.holds(one[1], dimension, fields)]
    if not own:
        raise ValueError("the only verdict in the reply is quoted from what it was shown")
    different = {json.dumps([value.get(name) for name in fields], sort_keys=True) for _, value in own}
    if len(different) > 1:
        raise ValueError(f"the reply holds {len(different)} different verdicts, expected one")
    last, value = own[-1]
    if quotable.is_spliced(last.content()):
        raise ValueError("the instruction goes on inside the verdict: its quotation marks were not escaped")
    rest = _without(text, last.end, [span for span, _ in about if span.start >= last.end])
    if "{" in rest or "}" in rest:
        raise ValueError(f"the reply goes on with braces after its verdict: {rest.strip()[:40]!r}")
    return value, last.end


def _read(span: Span, quotable: Quotable) -> dict[str, Any] | None:
    """What may be a verdict. Raises ValueError for one that is broken or cut off, unless it is a quotation."""
    if span.closed and not span.has("dimension"):
        return None
    try:
        return span.read()
    except ValueError as error:
        if span.closed and quotable.has(span.content()):
            return None
        raise ValueError(f"a JSON object of the reply is broken: {error}") from None


@cache
def _example(dimension: str) -> dict[str, Any]:
    """The form that the prompt shows; some judges repeat it."""
    return last_object(judge_prompt(dimension).user)


def _without(text: str, start: int, cut: Sequence[Span]) -> str:
    """What follows `start`, without these spans."""
    pieces = []
    for span in cut:
        pieces.append(text[start : span.start])
        start = span.end
    return "".join((*pieces, text[start:]))


def _used(value: Mapping[str, Any], dimension: str, mode: Mode) -> dict[str, Any]:
    """The fields of a verdict that count, and of the others what is of the right form."""
    values = dict(value)
    needed = {"score", "reasoning"} if mode == "paper" else {"score"} & set(_LABELS[dimension])
    for name, usable in (("score", is_score), ("reasoning", lambda text: isinstance(text, str))):
        if name in needed and values.get(name) is None:
            raise ValueError(f"the reply's JSON object: field {name!r} is missing")
        if name not in needed and not usable(values.get(name)):
            values.pop(name, None)
    if isinstance(values.get("assertions"), list):
        known = Assertion.model_fields
        values["assertions"] = [
            {name: row[name] for name in known if name in row} if isinstance(row, dict) else row
            for row in values["assertions"]
        ]
    return values


def is_score(value: Any) -> bool:
    try:
        _OWN_SCORE.validate_python(value)
    except ValidationError:
        return False
    return True


def _repairs(text: str, end: int) -> tuple[str, ...]:
    after = text[end:].strip()
    rest = re.sub(r"^`+\s*", "", after)
    repairs = ["code fence removed"] if rest != after else []
    return (*repairs, f"{len(rest)} characters after the object ignored") if rest else tuple(repairs)


def _check_ids(reply: AccuracyReply | CompletenessReply | ClarityReply, truth: Changes) -> None:
    primary, secondary = [c.id for c in truth.primary], [c.id for c in truth.secondary]
    if isinstance(reply, AccuracyReply):
        _refuse_unknown([a.change for a in reply.assertions if a.change is not None], primary + secondary, "assertions")
    elif isinstance(reply, CompletenessReply):
        labelled = Counter(label.id for label in reply.changes)
        _refuse_unknown(labelled, primary, "changes")
        for change in primary:
            if labelled[change] != 1:
                raise ValueError(f"primary change {change!r} has {labelled[change]} labels, expected one: HIT or MISS")
        _refuse_unknown(reply.secondary_hits, secondary, "secondary_hits")


def _refuse_unknown(ids, known: list[str], field: str) -> None:
    unknown = [one for one in ids if one not in known]
    if unknown:
        raise ValueError(f"'{field}' names {unknown[0]!r:.80}, expected one of {', '.join(known) or 'none'}")
