"""Hints from the words of an instruction alone (table 5, rows 2 and 7). They change no score; people look at them.

Heuristics: clauses are cut at punctuation and joiners, and an object is known by its last noun ("the red flower" is
"flower")."""

import re
from collections import Counter

_NUMBER = r"\d+(?:\.\d+)?"
_UNITS = (
    r"cm|mm|m|centim(?:et(?:er|re)s?)|millim(?:et(?:er|re)s?)|met(?:er|re)s?|inch(?:es)?|in\.|feet|foot|ft|px|pixels?"
)
_LENGTH = re.compile(rf"\b{_NUMBER}\s?(?:{_UNITS})(?![\w])", re.IGNORECASE)
_ANGLE = re.compile(rf"\b({_NUMBER})\s?(?:°|degrees?\b|deg\b)", re.IGNORECASE)
_PERCENT = re.compile(rf"\b{_NUMBER}\s?(?:%|percent\b|per cent\b)", re.IGNORECASE)

_CLAUSE = re.compile(r"[.;,!?\n]|\b(?:and then|and|then|but|also)\b")
_REMOVE = re.compile(r"^(?:please )?(?:remove|delete|erase|take away|take out)\b(.*)")
_ADD = re.compile(r"^(?:please )?(?:add|insert|place|put|draw)\b(.*)")
_KEEP = re.compile(r"^(?:please )?(?:keep|leave|preserve|maintain|retain)\b(.*)")
_CHANGE = re.compile(r"^(?:please )?(?:change|turn|make|recolou?r|replace|alter|convert|paint)\b(.*)")
_PLACE = re.compile(r"\b(?:at|in|on|from|near|to|into|with|by|beside|behind|under|above|below|next)\b")
_EMPTY_WORDS = frozenset(
    [
        "a",
        "an",
        "the",
        "some",
        "one",
        "its",
        "his",
        "her",
        "their",
        "unchanged",
        "same",
        "as",
        "is",
        "it",
        "intact",
        "untouched",
        "new",
        "old",
    ]
)
_FEWEST_WORDS = 3  # shorter clauses repeat by chance


def unverifiable_measures(text: str) -> list[str]:
    """Amounts that no one can check in the pictures: "15cm", "37 degrees", "20 %" (table 5, row 2; rule L4).

    Quarter turns (90, 180, 270, 360 degrees) can be seen and are left out. In order of appearance."""
    found = [(match.start(), match.group()) for match in (*_LENGTH.finditer(text), *_PERCENT.finditer(text))]
    found += [(match.start(), match.group()) for match in _ANGLE.finditer(text) if float(match[1]) % 90]
    return [measure for _, measure in sorted(found)]


def redundancies(text: str) -> list[str]:
    """What is said twice, or taken back, one sentence each (table 5, row 7; rule L5)."""
    clauses = [" ".join(clause.split()) for clause in _CLAUSE.split(text.lower())]
    clauses = [clause for clause in clauses if clause]
    found = [
        f"said {times} times: {clause}"
        for clause, times in Counter(clauses).items()
        if times > 1 and len(clause.split()) >= _FEWEST_WORDS
    ]
    removed, added = _parts(_REMOVE, clauses), _parts(_ADD, clauses)
    for noun, place in removed:
        if any(noun == other and (not where or not place or where == place) for other, where in added):
            found.append(f"removes and adds one {noun} at one place: say replace")
    for kept, _ in _parts(_KEEP, clauses):
        if any(kept in (noun, place.split()[-1] if place else "") for noun, place in _parts(_CHANGE, clauses)):
            found.append(f"keeps and changes the {kept}")
    return found


def flags(text: str) -> list[str]:
    """All hints on one instruction."""
    return [f"measure that no one can check: {one}" for one in unverifiable_measures(text)] + redundancies(text)


def _parts(verb: re.Pattern[str], clauses: list[str]) -> list[tuple[str, str]]:
    """(noun, place) of each clause that begins with the verb; "" for a part that it lacks."""
    found = []
    for clause in clauses:
        if match := verb.match(clause):
            preposition = _PLACE.search(match[1])
            said, place = (
                (match[1][: preposition.start()], match[1][preposition.end() :]) if preposition else (match[1], "")
            )
            noun, place = _words(said), " ".join(_words(place))
            if noun or place:
                found.append((noun[-1] if noun else "", "" if place in ("location", "place", "position") else place))
    return found


def _words(text: str) -> list[str]:
    return [word for word in re.findall(r"[a-z0-9'-]+", text) if word not in _EMPTY_WORDS]
