"""Whether two instructions are the same, and how near they are, by their tokens: case and blanks aside."""

import re
import unicodedata
from difflib import SequenceMatcher

# A word, or one sign of a script that has no blanks between words; or one other sign.
_TOKEN = re.compile(r"[\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]|[^\W\u3040-\u30ff\u3400-\u9fff\uf900-\ufaff]+|[^\w\s]")
_FULL_STOPS = {".", "。"}


def text_tokens(text: str) -> list[str]:
    """Words and signs, without case and blanks, and without the full stop at the end."""
    tokens = _TOKEN.findall(unicodedata.normalize("NFKC", text).casefold())
    while tokens and tokens[-1] in _FULL_STOPS:
        tokens.pop()
    return tokens


def same_tokens(first: str, second: str) -> bool:
    return text_tokens(first) == text_tokens(second)


def token_similarity(first: str, second: str) -> float:
    """2 M / T of the two texts' tokens, 0 .. 1: M of them match in order, of T in both (difflib's ratio)."""
    return SequenceMatcher(None, text_tokens(first), text_tokens(second), autojunk=False).ratio()
