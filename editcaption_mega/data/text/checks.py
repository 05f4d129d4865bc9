"""Texts that stand where an instruction should: refusals, placeholders, markup, repetitions."""

import re
import unicodedata
import zlib

from .refusals import begins_as_refusal, is_refusal

# What programs write where there is no text.
_NOTHING = r"^\W*(?:none|null|nan|n/?a|undefined|nil)\W*$"

_DOUBTS = {
    "a placeholder": re.compile(
        r"\[(?:[vsxy]\*?|subject|object|name|class|placeholder|style|colou?r|(?:insert|your)\b[^\]\[]{0,200})\]|<\*>|\bsks\b|"
        r"\{\{?[\w. ]*\}?\}|\$\{|%s\b|\blorem ipsum\b|\btodo\b|\bfixme\b|<(?:image|img|video|bos|eos|pad|unk|mask)>|"
        rf"{_NOTHING}|"
        r"^\W*(?:tbd|test|placeholder|instruction|caption|unknown|error|string|prompt|"
        r"no (?:changes?|edits?|caption|instruction))\W*$",
        re.IGNORECASE,
    ),
    "HTML": re.compile(
        r"</?(?:[abipu]|br|div|span|font|html|body|head|table|t[rdh]|[ou]l|li|em|strong|script|style|h[1-6])\b[^<>]*>|"
        r"&(?:\w{2,8}|#\d+);",
        re.IGNORECASE,
    ),
}


def is_nothing(text: str) -> bool:
    """Whether the whole text is a word for no text (None, null, N/A)."""
    return re.match(_NOTHING, text, re.IGNORECASE) is not None


def doubts(text: str) -> list[str]:
    """What makes a text doubtful as an instruction, each in a word or two; empty for most."""
    reasons = [name for name, form in _DOUBTS.items() if form.search(text)]
    if is_repetition(text):
        reasons.append("mostly repetitions")
    if any(unicodedata.category(letter) == "Cc" and letter not in "\n\r\t" for letter in text):
        reasons.append("control characters")
    if begins_as_refusal(text) and not is_refusal(text):
        reasons.append("words that refusals begin with")
    return reasons


def is_repetition(text: str) -> bool:
    """Whether a text of 40 bytes or more says the same again and again: it packs to less than a quarter."""
    content = text.encode("utf-8", "surrogatepass")
    return len(content) >= 40 and len(zlib.compress(content, 9)) - 11 < len(content) / 4
