"""A key: the environment variable that holds it, the header that carries it, and how it is kept out of everything else.

Servers echo what they were sent: in an error's text, in a header they quote, encoded in one way or another."""

import base64
import html
import json
import os
from collections.abc import Iterator
from functools import cached_property
from urllib.parse import quote, quote_plus

# Shorter "keys" (EMPTY, none) are what local servers are content with; taking such words out of texts would harm them.
_SHORTEST = 8
_LONGEST_PART = 12  # so many letters of a key in a row are taken out although the rest is missing
_BETWEEN = (" ", "-", "_", ".", ",", ", ", "\n", "\t", "\\n", "|", "/", "\u200b")  # letters of a key, spelled out


class Secret:
    """A key that shows itself nowhere: not in its repr, and `redact` takes it out of whatever a server echoes.

    Raises ValueError for what no HTTP header can carry."""

    def __init__(self, key: str, scheme: str = "Bearer"):
        if key and (not (key.isascii() and key.isprintable()) or " " in key):
            raise ValueError("it is something else than a key (spaces, line breaks or signs that no header can carry)")
        self._key, self._scheme = key, scheme

    @cached_property
    def _parts(self) -> dict[str, list[tuple[str, int, int]]]:
        """Each part of `_step` letters of a spelling -> whose, where in it, and how long a run of it is taken out.

        A text that holds a long enough run of a spelling holds such a part at one of its own places 0, _step, 2 _step,
        .., so only these are looked at."""
        parts: dict[str, list[tuple[str, int, int]]] = {}
        for spelling in self._all:
            least = self._least(spelling)
            for at in range(len(spelling) - self._step + 1):
                parts.setdefault(spelling[at : at + self._step], []).append((spelling, at, least))
        return parts

    @cached_property
    def _all(self) -> list[str]:
        return sorted(set(_spellings(self._key)), key=len, reverse=True) if len(self._key) >= _SHORTEST else []

    @cached_property
    def _step(self) -> int:
        return min((self._least(spelling) + 1) // 2 for spelling in self._all) if self._all else 1

    def _least(self, spelling: str) -> int:
        """The shortest run of a spelling that stands for `_LONGEST_PART` letters of the key."""
        return min(len(spelling), -(-_LONGEST_PART * len(spelling) // len(self._key)))

    @classmethod
    def from_environment(cls, variable: str, whose: str, scheme: str = "Bearer") -> "Secret":
        """The key that the variable holds. Raises ValueError when it is missing, empty or no key at all.

        whose: what the key opens, for the message."""
        key = os.environ.get(variable, "").strip()
        if not key:
            raise ValueError(
                f"the environment variable {variable} is missing or empty: it must hold the key of {whose}"
            )
        try:
            return cls(key, scheme)
        except ValueError as error:
            raise ValueError(f"the environment variable {variable} does not hold the key of {whose}: {error}") from None

    def __repr__(self) -> str:
        return "Secret(...)"

    def __bool__(self) -> bool:
        return bool(self._key)

    def headers(self) -> dict[str, str]:
        return {"Authorization": f"{self._scheme} {self._key}"} if self._key else {}

    def redact(self, text: str) -> str:
        """The text with [key] in the place of the key in any spelling, and of a long part of one."""
        if not text or not self._parts:
            return text
        kept, done, at = [], 0, 0
        while at <= len(text) - self._step:
            begin, end = self._run(text, at, done)
            if end:
                kept += [text[done:begin], "[key]"]
                done = at = end
            else:
                at += self._step
        return "".join([*kept, text[done:]]) if kept else text

    def _run(self, text: str, at: int, done: int) -> tuple[int, int]:
        """Where the longest run of a spelling over the part at `at` begins and ends; (0, 0) when there is none."""
        longest = (0, 0)
        for spelling, where, least in self._parts.get(text[at : at + self._step], ()):
            begin, left = at, where
            while begin > done and left and text[begin - 1] == spelling[left - 1]:
                begin, left = begin - 1, left - 1
            end, right = at + self._step, where + self._step
            while end < len(text) and right < len(spelling) and text[end] == spelling[right]:
                end, right = end + 1, right + 1
            if end - begin >= max(least, longest[1] - longest[0] + 1):
                longest = begin, end
        return longest


def _spellings(key: str) -> Iterator[str]:
    """The key as programs write it: plain, quoted, escaped, encoded."""
    for text in (key, key.lower(), key.upper(), key.swapcase()):
        yield text
        yield text.replace("'", "\\'")  # as Python shows a text that has both kinds of quotes
        yield (once := json.dumps(text)[1:-1])
        yield json.dumps(once)[1:-1]  # an error quoted inside another one's text
        yield html.escape(text)
        yield html.escape(text, quote=False)
    yield key[::-1]
    yield from (between.join(key) for between in _BETWEEN)
    for quoted in (quote(key, safe=""), quote(key), quote_plus(key)):
        yield quoted
        yield _lower_escapes(quoted)
    for form in ("\\u{:04x}", "\\u{:04X}", "\\x{:02x}", "&#{};", "&#x{:x};", "%{:02x}", "%{:02X}", "{:02x}", "{:02X}"):
        yield "".join(form.format(ord(letter)) for letter in key)
    for before in range(3):  # base64 depends on what stands before, by its length modulo 3
        encoded = base64.b64encode(b"\0" * before + key.encode()).decode().rstrip("=")[(0, 2, 3)[before] :]
        # The last letter may hold bits of what comes after.
        for text in (encoded, encoded[:-1]):
            yield text
            yield text.replace("+", "-").replace("/", "_")


def _lower_escapes(quoted: str) -> str:
    first, *others = quoted.split("%")
    return "%".join([first, *(part[:2].lower() + part[2:] for part in others)])
