"""A judge's reply, read strictly: labels about known changes, or one sentence that says what is wrong with it.

Only what is used is held to a form: in labels mode the judge's own score of accuracy and completeness, its reasoning
and further fields do not matter. The judge's own verdict has the ticket of its request, which no text that it judges
can hold; a judge that leaves it out is held to more."""

import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from editcaption_mega.evaluation.reply_objects import Found, ending, last_object, objects
from editcaption_mega.inference.endpoint.answer import last_closed
from editcaption_mega.records import Assertion, Changes
from editcaption_mega.records.record import first_sentence
from editcaption_mega.settings.evaluation import JudgeMode

from .prompts import judge_prompt, ticket
from .quoted_verdicts import Shown, shown_texts

# The judge's own number; in labels mode only clarity's counts, the others are computed from labels.
OwnScore = Annotated[float, Field(ge=1, le=5, strict=True)]
_OWN_SCORE = TypeAdapter(OwnScore)


class JudgeReply(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    score: OwnScore | None = None
    reasoning: str = ""


class AccuracyReply(JudgeReply):
    dimension: Literal["accuracy"]
    assertions: list[Assertion]


class Label(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)
    id: str
    label: Literal["HIT", "MISS"]


class CompletenessReply(JudgeReply):
    dimension: Literal["completeness"]
    changes: list[Label]
    secondary_hits: list[str]


class ClarityReply(JudgeReply):
    dimension: Literal["clarity"]
    forbidden_terms: list[str]
    information_points: Annotated[int, Field(ge=0, strict=True)]


_KINDS: dict[str, type[AccuracyReply] | type[CompletenessReply] | type[ClarityReply]] = {
    "accuracy": AccuracyReply,
    "completeness": CompletenessReply,
    "clarity": ClarityReply,
}
_LABELS = {
    "accuracy": ("assertions",),
    "completeness": ("changes", "secondary_hits"),
    "clarity": ("forbidden_terms", "information_points", "score"),
}
_LABEL_WORDS = (*_KINDS, *get_args(Assertion.model_fields["verdict"].annotation), "HIT", "MISS")
_MENTION = re.compile(r"dimension[^\w\n]{1,8}:", re.IGNORECASE)  # the key, quoted in some way


@dataclass(frozen=True)
class ParsedReply:
    reply: AccuracyReply | CompletenessReply | ClarityReply
    repairs: tuple[str, ...]  # what was forgiven, in words; for the row's provenance


def parse_reply(
    text: str, dimension: str, truth: Changes, *, instruction: str = "", mode: JudgeMode = "labels"
) -> ParsedReply:
    """The one verdict about `dimension` in a reply. What else stands there (the steps that the prompt asks for, quotes,
    drafts without the ticket) does not matter; a code fence and text after the verdict are told in `repairs`.

    Raises ValueError with one sentence: no verdict or two different ones, one of another request, one that may come
    from `instruction` or the ground truth, one that is cut off or broken, one of another dimension, missing, unknown or
    ill-typed fields that are used, a primary change without a label or with two, an id that the truth lacks."""
    changes = truth.primary + truth.secondary
    shown = shown_texts(instruction, *(change.text for change in changes), truth.overall)
    key = ticket(dimension, truth, instruction)
    verdict = _with_ticket(text, key, dimension, mode) if key in text else _without(text, shown, dimension, mode)
    schema = [*(change.id for change in changes), *_LABEL_WORDS]
    if shown.is_spliced(text[verdict.start : verdict.end], schema):
        raise ValueError("the instruction goes on inside the verdict: its quotation marks were not escaped")
    values = _used(verdict.fields, dimension, mode)
    try:
        reply = _KINDS[dimension].model_validate(values)
    except ValidationError as error:
        raise ValueError(f"the reply's JSON object: {first_sentence(error)}") from None
    _check_ids(reply, truth)
    return ParsedReply(reply, _repairs(text, verdict.end))


def _with_ticket(text: str, key: str, dimension: str, mode: JudgeMode) -> Found:
    """Only the judge knows the ticket: what has it is the judge's, and nothing else is."""
    found = objects(text, re.compile(rf'\{{\s*(?:"dimension"\s*:\s*"\w{{1,20}}"\s*,\s*)?"ticket"\s*:\s*"{key}"'))
    if not _verdicts(found):
        found = objects(text)  # in another order of fields
    own = [verdict for verdict in _verdicts(found) if verdict.fields.get("ticket") == key]
    if thought := last_closed(text):  # one that the judge's template opened may hold drafts
        own = [verdict for verdict in own if verdict.start >= thought.end()] or own
    last = _agreed(text, found, own, dimension, mode)
    later = [each for each in found if each.start >= last.end]
    broken = [each for each in later if not each.value and key in text[each.start : each.end]]
    if broken:
        raise ValueError(f"a JSON object of the reply is broken: {broken[-1].error}")
    return last


def _without(text: str, shown: Shown, dimension: str, mode: JudgeMode) -> Found:
    """A judge that leaves the ticket out must give one verdict only, which nobody else can have written."""
    found = objects(text)
    own = _verdicts(found)
    last = _agreed(text, found, own, dimension, mode)
    if any("ticket" in verdict.fields for verdict in own):
        raise ValueError("the verdict has a 'ticket' that is not the one of this request")
    rest = _between(text, found, 0 if shown.may_be_json else last.end)
    if _MENTION.search(rest):
        raise ValueError("a JSON object of the reply is broken, or a part of a quotation")
    if shown.has(text[last.start : last.end]) or _stands_in(shown, last.fields, dimension, mode):
        raise ValueError("the only verdict in the reply is quoted from what it was shown, and has no 'ticket'")
    return last


def _verdicts(found: Sequence[Found]) -> list[Found]:
    """Those that are about a dimension, without an object of one field around them; not the form that the prompt shows,
    which some judges repeat."""
    verdicts = []
    for each in found:
        value = each.value
        while value and len(value) == 1 and isinstance(inner := next(iter(value.values())), dict):
            value = inner
        if value and _dimension(value) and _without_its_ticket(value) != _example(_dimension(value)):
            verdicts.append(replace(each, value=value))
    return verdicts


def _dimension(value: Mapping[str, Any]) -> str:
    name = value.get("dimension")
    return name.strip().lower() if isinstance(name, str) else ""


def _without_its_ticket(value: Mapping[str, Any]) -> dict[str, Any]:
    return {name: field for name, field in value.items() if name != "ticket"}


@cache
def _example(dimension: str) -> dict[str, Any] | None:
    return _without_its_ticket(last_object(judge_prompt(dimension).user)) if dimension in _KINDS else None


def _agreed(text: str, found: Sequence[Found], own: Sequence[Found], dimension: str, mode: JudgeMode) -> Found:
    """The last of the judge's verdicts about a dimension, which must all say the same."""
    if not own:
        broken = [each for each in found if not each.value and _MENTION.search(text[each.start : each.end])]
        if broken:
            raise ValueError(f"a JSON object of the reply is broken: {broken[-1].error}")
        if not any(each.value for each in found):
            raise ValueError(f"the reply holds no whole JSON object: it {ending(text)}")
        raise ValueError("no JSON object of the reply has a field 'dimension' and the 'ticket' of this request")
    about = [verdict for verdict in own if _dimension(verdict.fields) == dimension]
    if not about:
        raise ValueError(f"the reply's JSON object is about {_dimension(own[-1].fields)!r:.80}, expected {dimension!r}")
    different = {_counted(verdict.fields, dimension, mode) for verdict in about}
    if len(different) > 1:
        raise ValueError(f"the reply holds {len(different)} different verdicts, expected one")
    return about[-1]


def _counted(value: Mapping[str, Any], dimension: str, mode: JudgeMode) -> str:
    """What counts of a verdict, in one form: equal ones say the same, however they are written."""

    def plain(item: Any) -> Any:
        if isinstance(item, dict):
            return {name: item.get(name) for name in ("verdict", "change", "id", "label")}
        return float(item) if isinstance(item, int) and abs(item) < 2**53 else item

    fields = [*_LABELS[dimension], *(("score",) if mode == "paper" else ())]
    values = [value.get(name) for name in fields]
    return json.dumps([list(map(plain, field)) if isinstance(field, list) else plain(field) for field in values])


def _stands_in(shown: Shown, value: Mapping[str, Any], dimension: str, mode: JudgeMode) -> bool:
    own = _counted(value, dimension, mode)
    try:
        if any(_dimension(each) == dimension and _counted(each, dimension, mode) == own for each in shown.objects):
            return True
        # A judge may mend what is broken there.
        return bool(_MENTION.search(_between(shown.plainest, objects(shown.plainest), 0)))
    except ValueError:
        return True  # nobody can say what stands there


def _between(text: str, found: Sequence[Found], start: int) -> str:
    """What follows `start`, without the whole objects."""
    pieces = []
    for each in found:
        if each.value and each.start >= start:
            pieces.append(text[start : each.start])
            start = each.end
    return "\n".join((*pieces, text[start:]))


def _used(value: Mapping[str, Any], dimension: str, mode: JudgeMode) -> dict[str, Any]:
    """The fields of a verdict that count, and of the others what is of the right form."""
    values = dict(value) | {"dimension": dimension}
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
        label_count = Counter(label.id for label in reply.changes)
        _refuse_unknown(label_count, primary, "changes")
        for change in primary:
            if label_count[change] != 1:
                raise ValueError(
                    f"primary change {change!r} has {label_count[change]} labels, expected one: HIT or MISS"
                )
        _refuse_unknown(reply.secondary_hits, secondary, "secondary_hits")


def _refuse_unknown(ids: Iterable[str], known: list[str], field: str) -> None:
    unknown = [name for name in ids if name not in known]
    if unknown:
        raise ValueError(f"'{field}' names {unknown[0]!r:.80}, expected one of {', '.join(known) or 'none'}")
