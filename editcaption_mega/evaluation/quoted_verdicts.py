"""Whether a verdict in a judge's reply is the judge's, or stands in the text that it judges.

A judge quotes what it judges: word by word, with other blanks, escaped once more, in another order of fields, in part.
So texts are compared by their letters and digits alone, and field by field."""

import html
import re
import unicodedata
from collections.abc import Iterable, Mapping
from itertools import permutations
from typing import Any
from urllib.parse import unquote

_NO_LETTER = re.compile(r"[\W_]+")
_ESCAPE = re.compile(r"(?<!\\)\\++(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|[bfnrt])")
_ESCAPED_TIMES = 4  # levels of escapes that are looked through
_MOST_KEYS = 4  # of a row of labels, whose order is tried out
_TEXT = re.compile(r'"text":"([^"\\]*+(?:\\.[^"\\]*+)*+)"')
_TAIL = 3  # characters of a quotation that are compared in front of what follows it


class Quotable:
    """Texts that a judge is shown as data: the instruction, and the ground truth's."""

    def __init__(self, texts: Iterable[str]):
        self._texts = list(texts)
        self._read: list[tuple[str, str]] | None = None

    def has(self, quotation: str) -> bool:
        """Whether these words stand in one of the texts."""
        words = letters(quotation)
        return any(words in plain for _, plain in self._variants())

    def holds(self, verdict: Mapping[str, Any], dimension: str, fields: Iterable[str]) -> bool:
        """Whether a verdict about `dimension` that says the same in these fields stands in one of the texts."""
        return any(
            f"dimension{dimension}" in plain and all(_says(text, plain, name, verdict.get(name)) for name in fields)
            for text, plain in self._variants()
        )

    def is_spliced(self, verdict: str) -> bool:
        """Whether a judge that copied a text into its own JSON without escaping it let the text add assertions: what
        stands between two quotations is the text's."""
        raw = "".join(verdict.split())
        texts = [bare for text in self._texts if '"text":"' in (bare := "".join(text.split()))]
        quotations = list(_TEXT.finditer(raw)) if texts else []
        for one, following in zip(quotations, quotations[1:], strict=False):
            gap = raw[one.end() - 1 : following.start(1)]
            if any(text.startswith(gap) or one[1][-_TAIL:] + gap in text for text in texts):
                return True
        return False

    def _variants(self) -> list[tuple[str, str]]:
        """Each text as it is and with its escapes undone, beside its letters; made once, for the first verdict."""
        if self._read is None:
            self._read = [(text, letters(text)) for whole in self._texts for text in _unescaped(whole)]
        return self._read


def letters(text: str) -> str:
    """The letters and digits of a text, in one case and form."""
    return _NO_LETTER.sub("", unicodedata.normalize("NFKC", text).casefold())


def _unescaped(text: str) -> list[str]:
    variants = [text]
    while len(variants) <= _ESCAPED_TIMES:
        plain = _ESCAPE.sub(lambda match: chr(int(match[1] or match[2] or "20", 16)), variants[-1])
        plain = unquote(html.unescape(plain))
        if plain == variants[-1]:
            break
        variants.append(plain)
    return variants


def _says(text: str, plain: str, name: str, value: Any) -> bool:
    if isinstance(value, list) and not value:
        return re.search(rf"{name}\W*\[\s*\]", text) is not None
    if isinstance(value, list):
        rows = [_orders(row) if isinstance(row, Mapping) else [letters(_shown(row))] for row in value]
        return letters(name) in plain and all(any(order in plain for order in row) for row in rows)
    return any(letters(name + shown) in plain for shown in _numbers(value))


def _orders(row: Mapping[str, Any]) -> list[str]:
    """A row of labels in every order of its fields."""
    cells = [letters(f"{name}{_shown(value)}") for name, value in row.items()]
    return ["".join(order) for order in permutations(cells)] if len(cells) <= _MOST_KEYS else ["".join(cells)]


def _numbers(value: Any) -> list[str]:
    """A number as it may be written."""
    if isinstance(value, int | float) and not isinstance(value, bool):
        return [f"{value:g}", str(value), f"{value:.1f}"]
    return [_shown(value)]


def _shown(value: Any) -> str:
    return "null" if value is None else str(value)
