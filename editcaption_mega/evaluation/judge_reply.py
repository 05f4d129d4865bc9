"""A judge's reply, read strictly: labels about known changes, or one sentence that says what is wrong with it."""

import json
import re
from collections import Counter
from dataclasses import dataclass
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from editcaption_mega.records import Assertion, Changes
from editcaption_mega.records.record import first_sentence

OwnScore = Annotated[
    float, Field(ge=1, le=5, strict=True)
]  # the judge's own number; what counts is computed from labels


class Reply(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
    score: OwnScore
    reasoning: str


class AccuracyReply(Reply):
    dimension: Literal["accuracy"]
    assertions: list[Assertion]


class Label(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)
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


@dataclass(frozen=True)
class ParsedReply:
    reply: AccuracyReply | CompletenessReply | ClarityReply
    repairs: tuple[str, ...]  # what was forgiven, in words; for the row's provenance


def parse_reply(text: str, dimension: str, truth: Changes) -> ParsedReply:
    """The labels in the last JSON object of a reply about `dimension`. Text before it is the steps that the prompt asks
    for; a code fence and text after it are forgiven and told in `repairs`.

    Raises ValueError with one sentence: no object, one of another dimension, missing, unknown or ill-typed fields, a
    primary change without a label or with two, an id that the truth lacks."""
    found, end = last_object(text)
    if "dimension" not in found:
        raise ValueError("the reply's last whole JSON object has no field 'dimension' (a longer one may be cut off)")
    if found["dimension"] != dimension:
        raise ValueError(f"the reply's JSON object is about {found['dimension']!r}, expected {dimension!r}")
    try:
        reply = _KINDS[dimension].model_validate(found)
    except ValidationError as error:
        raise ValueError(f"the reply's JSON object: {first_sentence(error)}") from None
    _check_ids(reply, truth)
    return ParsedReply(reply, _repairs(text, end))


def last_object(text: str) -> tuple[dict[str, Any], int]:
    """The last balanced JSON object that stands in no other one, and where it ends."""
    repeated: list[str] = []

    def unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        repeated.extend(key for key, times in Counter(key for key, _ in pairs).items() if times > 1)
        return dict(pairs)

    def refuse(constant: str) -> None:
        raise ValueError(f"{constant} is no JSON number")

    decoder = json.JSONDecoder(object_pairs_hook=unique, parse_constant=refuse)
    last, last_end, repeated_in_last, start = None, 0, [], text.find("{")
    while start >= 0:
        repeated.clear()
        try:
            last, last_end = decoder.raw_decode(text, start)
            repeated_in_last = list(repeated)
            start = text.find("{", last_end)
        except (ValueError, RecursionError):
            start = text.find("{", start + 1)
    if last is None:
        raise ValueError(f"the reply holds no whole JSON object: it {_ending(text)}")
    if repeated_in_last:
        raise ValueError(f"the reply's JSON object gives {repeated_in_last[0]!r} more than once")
    return last, last_end


def _ending(text: str) -> str:
    return f"ends with {text.rstrip()[-40:]!r}" if text.strip() else "is empty"


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
        raise ValueError(f"'{field}' names {unknown[0]!r}, expected one of {', '.join(known) or 'none'}")
