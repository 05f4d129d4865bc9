"""Words from outside (servers, files, people) on their way to a terminal or a log."""

import os
import re

LONGEST_LINE = 300  # characters of somebody else's message that are kept

# What terminals obey instead of showing it: control characters, marks that turn or hide writing, halves of characters.
_UNSEEN = re.compile(
    "[\x00-\x1f\x7f-\x9f\u00ad\u061c\u180e\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb\ud800-\udfff"
    "\U000e0000-\U000e0fff]"
)

# Names of settings and of environment variables whose values are nobody's to read.
SECRET_NAME = re.compile(r"(key|token|secret|passw(or)?d|credentials?)$", re.IGNORECASE)
_SHORTEST_SECRET = 8  # characters; shorter values occur in any text

_USER = re.compile(r"(://)[^\s'\"<>]{1,300}@")
_QUERY = re.compile(r"(://[^\s'\"<>?]{1,300}\?)[^\s'\"<>]+")


def counted(number: int, thing: str) -> str:
    """The number with what it counts: 1 pair, 2,000 pairs."""
    return f"{number:,} {thing}{'' if number == 1 else 's'}"


def printable(text: str) -> str:
    """The text with whatever a terminal would obey spelled out: ESC as \\x1b. Nothing else changes."""
    return _UNSEEN.sub(_spelled, text)


def without_credentials(text: str) -> str:
    """The text without user names, passwords and queries of the addresses in it."""
    return _QUERY.sub(r"\1[hidden]", _USER.sub(r"\1[hidden]@", text))


def without_secrets(text: str) -> str:
    """The text without credentials of addresses, and without the values of environment variables of secret names."""
    text = without_credentials(text)
    for name, value in os.environ.items():
        if SECRET_NAME.search(name) and len(value) >= _SHORTEST_SECRET:
            text = text.replace(value, "[hidden]")
    return text


def one_line(text: str, longest: int = LONGEST_LINE) -> str:
    """Somebody else's words as one printable line of bounded length that every file takes."""
    if not text:
        return text
    line = printable(" ".join(text[: 16 * longest].split()))
    return line if len(line) <= longest else line[: longest - 3] + "..."


def _spelled(match: re.Match[str]) -> str:
    code = ord(match[0])
    return f"\\x{code:02x}" if code < 0x100 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def words_of_error(error: BaseException) -> str:
    """What an exception says in one line, or what it is where it says nothing."""
    return one_line(str(error)) or type(error).__name__
