"""The rules of a filter, as people write them.

success>=6          a number              ssim<q0.9         below the 90 % quantile of all values
success>=p0.95      the loosest threshold at which 95 % of labeled pairs are right (`calibration`); with >= or <=
identical=false     a word, or true and false; edit_type=add|remove|replace: one of several
lint:none           an empty list         lint:vague, lint:!vague: a list with, without
scores.success>=6   the column of scores.jsonl, where several files have one of the name
success>=6?         pairs without a value pass; without the mark they are dropped
"""

import math
import re
from dataclasses import dataclass
from typing import Literal

from editcaption_mega.records import words_problem
from editcaption_mega.settings import SettingsError

Kind = Literal["number", "quantile", "precision", "word", "list", "text"]  # text: one that a pair may have

_NAME = r"(?P<name>[A-Za-z_][\w-]*(?:\.[A-Za-z_][\w-]*)?)"
_COMPARED = re.compile(
    rf"{_NAME}\s*(?P<sign>>=|<=|>|<)\s*(?P<scale>[qp]?)(?P<number>[+-]?\d+(?:\.\d+)?)(?P<absent>\??)"
)
_WORD = re.compile(rf"{_NAME}\s*(?P<sign>!?=)\s*(?P<word>[^\s|?<>=!]+(?:\|[^\s|?<>=!]+)*)(?P<absent>\??)")
_LISTED = re.compile(rf"{_NAME}\s*:\s*(?P<word>!?[\w-]+)(?P<absent>\??)")
_FORMS = "COLUMN>=6, COLUMN<q0.9, COLUMN>=p0.95, COLUMN=word, COLUMN:none or COLUMN:!name"


@dataclass(frozen=True)
class FilterRule:
    """text: as written. sign: one of >= <= > < = != :. value: the number, quantile or precision; words: the others'."""

    text: str
    column: str
    kind: Kind
    sign: str
    value: float = math.nan
    words: tuple[str, ...] = ()
    absent_passes: bool = False

    @property
    def is_numeric(self) -> bool:
        return self.kind in ("number", "quantile", "precision")

    @property
    def keeps_high(self) -> bool:
        return self.sign.startswith(">")

    def passes(self, value: object) -> bool:
        """Of a word or a list; raises ValueError for a value of another kind."""
        if self.kind == "text":
            return isinstance(value, str) and words_problem(value) is None
        if self.kind == "list":
            if not isinstance(value, list):
                raise ValueError(f"rule {self.text!r} is about a list, and {self.column} is {value!r}")
            (word,) = self.words
            if word == "none":
                return not value
            return word[1:] not in value if word.startswith("!") else word in value
        return (_spelled(value) in self.words) == (self.sign == "=")


def parse_rule(text: str) -> FilterRule:
    """Raises SettingsError, in a sentence, for what is no rule."""
    rule = text.strip()
    if match := _COMPARED.fullmatch(rule):
        kind: Kind = {"": "number", "q": "quantile", "p": "precision"}[match["scale"]]  # type: ignore[assignment]
        value = float(match["number"])
        if kind == "quantile" and not 0 <= value <= 1:
            raise SettingsError(f"rule {text!r}: a quantile is a number from 0 to 1, found {match['number']}")
        if kind == "precision" and not 0 < value < 1:
            raise SettingsError(f"rule {text!r}: a precision is a number between 0 and 1, found {match['number']}")
        if kind == "precision" and len(match["sign"]) == 1:
            raise SettingsError(f"rule {text!r}: the threshold of a precision passes itself; write {match['sign']}=")
        return FilterRule(rule, match["name"], kind, match["sign"], value, absent_passes=bool(match["absent"]))
    if match := _WORD.fullmatch(rule):
        words = tuple(match["word"].split("|"))
        return FilterRule(rule, match["name"], "word", match["sign"], words=words, absent_passes=bool(match["absent"]))
    if match := _LISTED.fullmatch(rule):
        return FilterRule(rule, match["name"], "list", ":", words=(match["word"],), absent_passes=bool(match["absent"]))
    raise SettingsError(f"rule {text!r} is none: expected {_FORMS}")


def parse_rules(texts: list[str]) -> list[FilterRule]:
    """Raises SettingsError also for a rule that is written twice."""
    rules = [parse_rule(text) for text in texts]
    for rule in rules:
        if [other.text for other in rules].count(rule.text) > 1:
            raise SettingsError(f"rule {rule.text!r} is given twice")
    return rules


def _spelled(value: object) -> str:
    """A value of JSON as a rule writes it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    return f"{value:g}" if isinstance(value, float) else str(value)
