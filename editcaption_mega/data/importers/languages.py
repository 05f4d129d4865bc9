"""Which language an instruction is in, where a set has Chinese ones beside English ones: told by its script."""

import re
from collections.abc import Sequence

LANGUAGES = ("en", "zh")
_CHINESE = re.compile(r"[\u3400-\u4dbf\u4e00-\u9fff]")
# What a text is about, but not written in: 'Change the sign to "你好"'. An apostrophe within a word is no quote.
_QUOTED = re.compile(r"(?<![A-Za-z])'[^']*'(?![A-Za-z])|\"[^\"]*\"|“[^”]*”|‘[^’]*’|「[^」]*」|『[^』]*』|《[^》]*》")
_LETTER = re.compile(r"[^\W\d_]")


def language_of(text: str) -> str:
    """`zh` for a text with Chinese characters outside its quotes, or with nothing else; `en` for any other."""
    outside = _QUOTED.sub("", text)
    return "zh" if _CHINESE.search(outside if _LETTER.search(outside) else text) else "en"


def joined_sentences(texts: Sequence[str]) -> str:
    """Several instructions as one text, each ended as a sentence of its language."""
    ended = [text.strip() for text in texts]
    ended = [text if text[-1] in ".!?。！？" else text + ("." if language_of(text) == "en" else "。") for text in ended]
    return " ".join(ended)
