"""What both languages are read into: clauses of one action on one thing."""

import re
from dataclasses import dataclass
from typing import Literal

Action = Literal["keep", "change", "remove", "add", "move", "other"]
Span = tuple[int, int]

_QUOTED = re.compile(
    r"(?<!\w)'[^'\n]{1,200}'(?!\w)|\"[^\"\n]{1,200}\"|“[^”\n]{1,200}”|‘[^’\n]{1,200}’|「[^」\n]{1,200}」|『[^』\n]{1,200}』"
)


def word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


# Words that tell one thing from another of its kind: "the cat" may be "the black cat", but is not "the second cat".
_TELLING_APART = word_set(
    "left right first second third fourth last other another top bottom upper lower front rear back foreground "
    "background else rest others everything nearest farthest"
)
_NOT_A_THING = frozenset(["other", "else", "rest", "others", "everything", "其余", "其他", "其它", "一切"])
_SHORTEST_CHINESE_NAME = 1


@dataclass(frozen=True)
class Thing:
    """words: all that describe it, its head too; place: the words of where it is, or goes."""

    head: str = ""
    words: frozenset[str] = frozenset()
    place: frozenset[str] = frozenset()

    @property
    def is_named(self) -> bool:
        return bool(self.head) and not self.words & _NOT_A_THING and not any(word in self.head for word in _NOT_A_THING)

    def is_kind_of(self, other: "Thing") -> bool:
        """Whether both have the same head; Chinese compounds end in it (铜制台灯, 台灯)."""
        if self.head == other.head:
            return bool(self.head)
        short, long = sorted((self.head, other.head), key=len)
        return len(short) >= _SHORTEST_CHINESE_NAME and is_chinese(short) and long.endswith(short)

    def may_be(self, other: "Thing") -> bool:
        """Whether both may name one thing: the same kind, nothing that tells them apart, no two places."""
        if not (self.is_named and other.is_named and self.is_kind_of(other)):
            return False
        different = self.words ^ other.words
        heads = {self.head, other.head}
        one_describes_more = self.words - heads <= other.words or other.words - heads <= self.words
        apart = different & _TELLING_APART or not one_describes_more
        return not apart and (not self.place or not other.place or self.place == other.place)


@dataclass(frozen=True)
class Clause:
    """verb: the word itself where the action says too little ("move" is also to raise and to lower). span: of the text.
    result: what the thing becomes, in order. is_whole: a thing is kept as it is, not in one respect."""

    action: Action
    thing: Thing
    span: Span
    result: tuple[str, ...] = ()
    is_whole: bool = True
    at_same_place: bool = False  # an addition where something else was
    is_bare: bool = False  # an addition of a single noun
    verb: str = ""


def is_chinese(text: str) -> bool:
    return any("\u4e00" <= letter <= "\u9fff" for letter in text)


def hide_quotes(text: str) -> str:
    """The text with each quoted letter replaced by one that no rule reads (of the private use area, another for
    another letter, so that equal quotes stay equal): what a picture should say is no instruction."""
    return _QUOTED.sub(lambda match: "".join(chr(0xE000 + ord(letter) % 0x1800) for letter in match[0]), text)
