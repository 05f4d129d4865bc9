"""What a judge is shown as data, and whether a verdict comes from there.

This is for verdicts without the ticket of their request, and for text that a judge copied into its own JSON without
escaping it; a verdict with the ticket is the judge's."""

import html
import re
from collections import defaultdict
from collections.abc import Iterable
from functools import cached_property, lru_cache
from typing import Any
from urllib.parse import unquote

from editcaption_mega.evaluation.reply_objects import objects_at_any_depth

_ESCAPE = re.compile(r'\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|([\\"/]))')
_ENTITY = re.compile(r"&#?\w{1,32};?")  # no number is so long that Python refuses to read it
_ESCAPED_TIMES = 4  # levels of escapes that are looked through
_STRING = re.compile(r'"([^"\\]*+(?:\\.[^"\\]*+)*+)"(:?)', re.DOTALL)
_BEFORE, _AFTER = 3, 24  # characters around a quotation mark; `","verdict":"correct","c` tells one label from another
_BEGIN = "\0"  # of a text: what stands before it in a verdict is the judge's


class Shown:
    """Texts that a judge is shown as data: the instruction, and the ground truth's."""

    def __init__(self, texts: Iterable[str]):
        variants = [_unescaped(text) for text in texts]
        self._texts = [variant for text in variants for variant in text]
        self.plainest = "\n".join(text[-1] for text in variants)  # with no escapes left

    @cached_property
    def may_be_json(self) -> bool:
        """Whether a quotation of them could be read as a part of a verdict."""
        return any("{" in text or "}" in text or "dimension" in text for text in self._bare)

    @cached_property
    def objects(self) -> list[dict[str, Any]]:
        """Raises ValueError where nobody can say what they hold."""
        return [value for text in self._texts for value in objects_at_any_depth(text)]

    def has(self, words: str) -> bool:
        return any(_bare(words) in text for text in self._bare)

    def is_spliced(self, verdict: str, schema: Iterable[str]) -> bool:
        """Whether a text, copied into this JSON object unescaped, ends one of its strings and goes on with fields of
        its own. schema: strings that are no copies: ids, labels."""
        raw, known = _bare(verdict), {_bare(word) for word in schema}
        for string in _STRING.finditer(raw):
            words, close, same = string[1], string.end(1), {string[1]}
            if string[2] or words in known:
                continue
            ends = [words[-_BEFORE:], *(_BEGIN + words[len(words) - n :] for n in range(min(_BEFORE, len(words) + 1)))]
            for after, contexts in self._contexts.items():
                follows = raw[close : close + after]
                if any(contexts.get(end + follows, same) != same for end in ends):
                    return True
        return False

    @cached_property
    def _bare(self) -> list[str]:
        return [_bare(text) for text in self._texts]

    @cached_property
    def _contexts(self) -> dict[int, dict[str, set[str | None]]]:
        """What stands in the texts around quotation marks that a key follows, as a string of a verdict may end there:
        by the number of characters from the mark on, which is smaller where the text ends. A copy may begin at each of
        the characters before the mark. With it the words that may stand there: a text that holds JSON of its own has
        strings that a judge may write too."""
        contexts: dict[int, dict[str, set[str | None]]] = defaultdict(lambda: defaultdict(set))
        for text in self._bare:
            last = -1
            for mark in re.finditer('"', text):
                at = mark.start()
                words = text[last + 1 : at] if last > 0 and text[last - 1] in ":[," else None
                before, after = text[max(at - _BEFORE, 0) : at], text[at : at + _AFTER]
                if '":' in after[1:]:
                    for begin in range(len(before) + 1):
                        contexts[len(after)][before[begin:] + after].add(words)
                    if len(before) < _BEFORE:
                        contexts[len(after)][_BEGIN + before + after].add(words)
                last = at
        return contexts


@lru_cache(maxsize=8)
def shown_texts(*texts: str) -> Shown:
    """Kept for the dimensions and repeats of an instruction."""
    return Shown(texts)


def _bare(text: str) -> str:
    """Without blanks, in one case."""
    return "".join(text.split()).casefold()


def _unescaped(text: str) -> list[str]:
    """The text as it is, and with its escapes undone, level by level."""
    variants = [text]
    while len(variants) <= _ESCAPED_TIMES:
        plain = _ESCAPE.sub(lambda match: match[3] or chr(int(match[1] or match[2], 16)), variants[-1])
        plain = unquote(_ENTITY.sub(lambda match: html.unescape(match[0]), plain))
        if plain == variants[-1]:
            break
        variants.append(plain)
    return variants
