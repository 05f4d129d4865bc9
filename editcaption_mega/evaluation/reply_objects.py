"""JSON objects in what a model wrote: each brace that opens outside of any other begins one, whole or broken.

Nothing is searched for inside an object, broken ones least of all: what stands there is what the model quotes. Every
character belongs to one span at most, so a text is read in time proportional to its length."""

import re
from dataclasses import dataclass
from typing import Any

from editcaption_mega.files import parse_json

_LONGEST = 1_000_000  # characters of a reply that is read
_SIGN = re.compile(r'\\.|[{}"]', re.DOTALL)  # an escaped quotation mark opens no string
_STRING = re.compile(r'"[^"\\]*+(?:\\.[^"\\]*+)*+"', re.DOTALL)


@dataclass(frozen=True)
class Span:
    """text[start:end] from a brace to the one that closes it, or to the end of the text where none does."""

    text: str
    start: int
    end: int
    closed: bool

    def has(self, word: str) -> bool:
        return self.text.find(word, self.start, self.end) >= 0

    def content(self) -> str:
        return self.text[self.start : self.end]

    def read(self) -> dict[str, Any]:
        """The JSON object that it is. Raises ValueError where it is none."""
        if not self.closed:
            raise ValueError(f"it never ends (the text {ending(self.text)})")
        return parse_json(self.content())


def spans(text: str) -> list[Span]:
    """All of them in order. Raises ValueError for a text that is longer than any reply."""
    if len(text) > _LONGEST:
        raise ValueError(f"the reply has {len(text):,} characters, expected at most {_LONGEST:,}")
    found = []
    start = text.find("{")
    while start >= 0:
        end = _end(text, start)
        found.append(Span(text, start, end or len(text), end is not None))
        start = text.find("{", found[-1].end)
    return found


def last_object(text: str) -> dict[str, Any]:
    """The last JSON object of a reply. Raises ValueError with one sentence when there is none, or a broken one."""
    found = spans(text)
    if not found:
        raise ValueError(f"the reply holds no whole JSON object: it {ending(text)}")
    try:
        return found[-1].read()
    except ValueError as error:
        raise ValueError(f"the reply's last JSON object is broken: {error}") from None


def ending(text: str) -> str:
    return f"ends with {text.rstrip()[-40:]!r}" if text.strip() else "is empty"


def _end(text: str, start: int) -> int | None:
    """Where the object that begins at `start` ends; None: nowhere."""
    depth, at = 0, start
    while sign := _SIGN.search(text, at):
        at = sign.end()
        if sign[0] == '"':
            string = _STRING.match(text, sign.start())
            if string is None:
                return None
            at = string.end()
        elif sign[0] in "{}":
            depth += 1 if sign[0] == "{" else -1
            if not depth:
                return at
    return None
