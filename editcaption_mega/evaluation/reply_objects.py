"""JSON objects in what a model wrote, among words and signs that are none.

A brace before a key in quotation marks begins one; it ends where it is whole, or where it turns out to be no JSON, and
there the search goes on. So nothing is searched inside an object, and a text is read in time proportional to its
length."""

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from editcaption_mega.files import parse_json

_LONGEST = 1_000_000  # characters of a reply that is read
_MOST_BROKEN = 1000  # each error counts the lines before it
_START = re.compile(r'\{\s*"[^"{}\n]{1,80}"\s*:')


@dataclass(frozen=True)
class Found:
    """text[start:end]; value: None where it is broken, and `error` says why."""

    start: int
    end: int
    value: dict[str, Any] | None
    error: str = ""

    @property
    def fields(self) -> dict[str, Any]:
        """The value of a whole one."""
        assert self.value is not None, "a broken object has no fields"
        return self.value


def objects(text: str, start: re.Pattern[str] = _START) -> list[Found]:
    """All of them in order, whole and broken ones. start: how those begin that are looked for.

    Raises ValueError for a text that is longer than any reply, full of broken ones or nested too deeply."""
    if len(text) > _LONGEST:
        raise ValueError(f"the reply has {len(text):,} characters, expected at most {_LONGEST:,}")
    found = []
    for begin, end, error in _extents(text, start, _decoder()):
        value = None
        if not error:
            try:
                value = parse_json(text[begin:end])
            except ValueError as refused:
                error = str(refused)
        found.append(Found(begin, end, value, error))
    return found


def objects_at_any_depth(text: str) -> list[dict[str, Any]]:
    """Every object that is whole, inside of others and of broken ones too. Raises ValueError as `objects`."""
    found: list[dict[str, Any]] = []

    def keep(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        found.append(dict(pairs))
        return found[-1]

    for _ in _extents(text, _START, _decoder(keep)):
        pass
    return found


def last_object(text: str) -> dict[str, Any]:
    """The last JSON object of a reply. Raises ValueError with one sentence when there is none, or a broken one."""
    found = objects(text)
    if not found:
        raise ValueError(f"the reply holds no whole JSON object: it {ending(text)}")
    if found[-1].value is None:
        raise ValueError(f"the reply's last JSON object is broken: {found[-1].error}")
    return found[-1].value


def ending(text: str) -> str:
    return f"ends with {text.rstrip()[-40:]!r}" if text.strip() else "is empty"


def _decoder(keep: Callable[[list[tuple[str, Any]]], Any] | None = None) -> json.JSONDecoder:
    """For extents: it takes whatever could be meant as JSON."""
    return json.JSONDecoder(object_pairs_hook=keep, parse_int=float, strict=False)


def _extents(text: str, start: re.Pattern[str], decoder: json.JSONDecoder) -> Iterator[tuple[int, int, str]]:
    """(begin, end, what is wrong with it)."""
    at = broken = 0
    while match := start.search(text, at):
        begin, error = match.start(), ""
        try:
            at = decoder.raw_decode(text, begin)[1]
        except json.JSONDecodeError as problem:
            at, broken = max(problem.pos, match.end()), broken + 1
            is_cut = problem.msg.startswith("Unterminated") or not text[problem.pos :].strip()
            error = f"it never ends (the text {ending(text)})" if is_cut else f"not valid JSON ({problem})"
        except RecursionError:
            raise ValueError("the text holds a JSON object that is nested too deeply") from None
        if broken > _MOST_BROKEN:
            raise ValueError(f"the text holds more than {_MOST_BROKEN:,} broken JSON objects")
        yield begin, at, error
