"""Directions: what a text says of where things go and face, against itself and against the mirrored pair's text."""

import re
from collections.abc import Iterator
from itertools import combinations
from typing import NamedTuple

from . import chinese, english
from .clauses import Span, Thing, is_chinese
from .findings import Finding

_OPPOSITE = {"left": "right", "up": "down", "clockwise": "counterclockwise", "in": "out", "forward": "backward",
             "closer": "farther", "larger": "smaller", "lighter": "darker"}  # fmt: skip
OPPOSITE = _OPPOSITE | {value: key for key, value in _OPPOSITE.items()}
_LATERAL = ("left", "right", "clockwise", "counterclockwise")
_HINT = "name one direction per thing"


class Direction(NamedTuple):
    """value: of OPPOSITE; thing: what goes or faces there."""

    value: str
    thing: Thing
    span: Span


# A bare "left" is a direction unless a noun follows ("left hand"); "from the left" is where something comes from.
_ENDS = (
    r"(?=\s*(?:$|[.,;:!?\n)]|(?:and|but|while|then|so|of|at|in|on|by|from|to|with|until|side|edge|again|along|toward|"
    r"towards|across)\b))"
)
_FROM = r"(?<!from )(?<!from the )(?<!from the far )"
_GOING = r"(?:to|toward|towards)(?: the| his| her| its)?(?: far)?"
_TURNING = (
    r"(?:facing|looking|pointing|leaning|face|look|point|lean|turn|rotate|pan|pans|panning|move|moves|moving|slide|swing|"
    r"tilt|tilting|shift|further|farther|more|camera)"
)
_TILTING = r"(?:tilt|tilting|pan|panning|move|look|camera|view)"
_ENGLISH = {
    side: re.compile(
        rf"{_FROM}\b(?:{_GOING}\s+{side}{_ENDS}|{_TURNING}\s+{side}{_ENDS}|{side}wards?\b)"
    )
    for side in ("left", "right")
} | {
    "up": re.compile(rf"\b(?:upwards?|(?:raise|raising)\b|{_TILTING}\s+up\b)"),
    "down": re.compile(rf"\b(?:downwards?|(?:lower|lowering)\b(?=\s+(?:the|his|her|its|\w+'s))|{_TILTING}\s+down\b)"),
    "clockwise": re.compile(r"\bclockwise\b"),
    "counterclockwise": re.compile(r"\b(?:counter-?|anti-?)clockwise\b"),
    "in": re.compile(r"\bzoom(?:ing)? in\b"),
    "out": re.compile(r"\bzoom(?:ing)? out\b"),
    "forward": re.compile(r"\bforwards?\b"),
    "backward": re.compile(r"\bbackwards?\b"),
    "closer": re.compile(r"\b(?:closer|nearer)\b"),
    "farther": re.compile(r"\b(?:farther|further) away\b"),
    "larger": re.compile(r"\b(?:enlarge|enlarging|bigger|larger)\b"),
    "smaller": re.compile(r"\b(?:shrink|shrinking|smaller)\b"),
    "lighter": re.compile(r"\b(?:brighten|brightening|brighter)\b"),
    "darker": re.compile(r"\b(?:darken|darkening|darker)\b"),
}  # fmt: skip
_CHINESE = {
    "left": r"(?<!从)[向往朝靠偏到转](?:向|最)?左(?!手|腿|脚|臂|眼|耳)|左移|左转",
    "right": r"(?<!从)[向往朝靠偏到转](?:向|最)?右(?!手|腿|脚|臂|眼|耳)|右移|右转",
    "up": "[向往朝]上|抬起|抬高|举起|升高|提起|上移",
    "down": "[向往朝]下|放下|降低|垂下|下移",
    "clockwise": "(?<!逆)顺时针",
    "counterclockwise": "逆时针",
    "in": "拉近|推近",
    "out": "拉远|推远",
    "forward": "[向往朝]前",
    "backward": "[向往朝]后",
    "larger": "放大|变大",
    "smaller": "缩小|变小",
    "lighter": "调亮|变亮",
    "darker": "调暗|变暗",
}
_FACING = ("面", "脸", "看", "头", "并", "使", "目光")  # what turns is whatever was named before
_CHINESE_PATTERNS = {value: re.compile(pattern) for value, pattern in _CHINESE.items()}
_OWN_PART = re.compile(
    r"(?:,|\band\b|\bwhile\b|\bbut\b|\bso that\b)\s+(?=(?:the|a|an|his|her|their|its|another|one)\b)"
)
_DETERMINED = re.compile(r"\b(?:the|a|an|his|her|their|its|[\w-]+'s)\s+")
_CAMERA = Thing("camera", frozenset(["camera"]))
_NOT_THE_NAME = re.compile(
    rf"\b(?:(?<!on the )(?<!on the far )(?:left|right){_ENDS}|on(?! the (?:far )?(?:left|right)\b))|"
    r"\b(?:to|toward|towards|facing|looking|face|look|leftward|rightward|clockwise|counterclockwise|anticlockwise|up|down|"
    r"forward|backward|closer|farther|further|away|so|now|moves?|turns?|stands?|goes|in|at|by|from|of)\b|[,;.]"
)


def direction_findings(text: str) -> Iterator[Finding]:
    """Opposite directions for one thing. text: lower case, quotes hidden."""
    directions = [*_english(text), *(_chinese(text) if is_chinese(text) else ())]
    for first, second in combinations(sorted(directions, key=lambda one: one.span), 2):
        if OPPOSITE[first.value] == second.value and first.thing.may_be(second.thing):
            span = first.span[0], second.span[1]
            message = f"{first.value} and {second.value} of one thing ({first.thing.head})"
            yield Finding("direction", span, message, _HINT)


def _english(text: str) -> Iterator[Direction]:
    last = Thing()
    for start, end in _english_parts(text):
        part = text[start:end]
        named = _named(part)
        last = named if named.head else last
        for value, pattern in _ENGLISH.items():
            for match in pattern.finditer(part):
                yield Direction(value, last, (start + match.start(), start + match.end()))


def _english_parts(text: str) -> Iterator[Span]:
    """Stretches about one thing each: clauses, and what follows "and the", "so that the"."""
    cuts = {0, len(text)}
    cuts |= {clause.span[0] for clause in english.english_clauses(text) if clause.action != "keep"}
    cuts |= {match.end() for match in re.finditer(r"[.;!?\n]\s*", text)}
    cuts |= {match.end() for match in _OWN_PART.finditer(text)}
    ordered = sorted(cuts)
    yield from zip(ordered, ordered[1:], strict=False)


def _named(part: str) -> Thing:
    if re.match(rf"(?:{'|'.join(english.CAMERA_VERBS)})(?:\w*ing)?\b(?!\s+(?:the|his|her)\s+(?!camera|view))", part):
        return _CAMERA
    determined = _DETERMINED.search(part)
    if determined is None:
        return Thing()
    rest = part[determined.start() :]
    stop = _NOT_THE_NAME.search(rest, len(determined[0]))
    return english.english_thing(rest[: stop.start()] if stop else rest)


def _chinese(text: str) -> Iterator[Direction]:
    last = Thing()
    for segment, start in chinese.segments(text):
        named = _chinese_name(segment)
        last = named if named.head else last
        for value, pattern in _CHINESE_PATTERNS.items():
            for match in pattern.finditer(segment):
                yield Direction(value, last, (start + match.start(), start + match.end()))


def _chinese_name(segment: str) -> Thing:
    marks = "|".join(_CHINESE.values())
    first = re.search(f"(?:更)?(?:{marks}|旋转|移动|从)", segment)
    if first is None:
        return Thing()
    before = re.sub("^(?:把|将|让|使)", "", segment[: first.start()])
    name = before or re.split("[到在向往]", re.sub("^(?:旋转|移动)", "", segment[first.end() :]))[0]
    name = re.sub("^(?:旋转|移动)", "", name)
    return Thing() if name in _FACING else chinese.chinese_thing(name)


_SIDES = {
    "left": re.compile(r"\bleft(?:wards?|most|-hand)?\b(?! ?over)|左"),
    "right": re.compile(
        r"\bright(?:wards?|most|-hand)?\b"
        r"(?! (?:in|at|next|behind|above|below|beside|before|after|now|away|under|where|angle))|右"
    ),
    "clockwise": re.compile(r"(?<!counter)(?<!counter-)(?<!anti)(?<!anti-)\bclockwise\b|顺时针"),
    "counterclockwise": re.compile(r"\b(?:counter-?|anti-?)clockwise\b|逆时针"),
    "up": re.compile(r"\b(?:upwards?|rais(?:e|ing)|higher|up(?= and\b))\b|[向往朝]上|抬起|抬高|升高"),
    "down": re.compile(r"\b(?:downwards?|lower(?:ing)?(?= (?:the|his|her)\b)|down(?= and\b))\b|[向往朝]下|放下|降低"),
}  # fmt: skip


def unswapped_sides(text: str, mirrored: str) -> list[str]:
    """What is wrong between an instruction and that of the mirrored pair (both pictures flipped), a sentence each.

    Left and right, and the senses of rotation, must change places; up and down must not. Both texts may order and
    word things otherwise: of each word counts whether it is said, and, where both sides are said and the texts are
    otherwise equal, in which order. Texts: lower case, quotes hidden. Paper: section 4.2, orientation errors."""
    said, mirrored_said = _sides(text), _sides(mirrored)
    problems = []
    for values in (_LATERAL[:2], _LATERAL[2:]):
        here = {value for value in said if value in values}
        there = {OPPOSITE[value] for value in mirrored_said if value in values}
        if here != there:
            problems.append(f"{_and(here)} here, {_and({OPPOSITE[value] for value in there})} for the mirrored pair")
    if not problems and _bare(text) == _bare(mirrored):
        lateral = [value for value in said if value in _LATERAL]
        if lateral != [OPPOSITE[value] for value in mirrored_said if value in _LATERAL]:
            problems.append("both sides are named, and not all of them change places in the mirrored pair")
    up_here, up_there = ({value for value in words if value in ("up", "down")} for words in (said, mirrored_said))
    if up_here and up_there and up_here != up_there:
        problems.append(f"{_and(up_here)} here, {_and(up_there)} for the mirrored pair, which is not upside down")
    return problems


def _sides(text: str) -> list[str]:
    """Of _SIDES, in the order of the text."""
    places = [(match.start(), value) for value, pattern in _SIDES.items() for match in pattern.finditer(text)]
    return [value for _, value in sorted(places)]


def _bare(text: str) -> str:
    for value in _LATERAL:
        text = _SIDES[value].sub("*", text)
    return " ".join(text.split())


def _and(values: set[str]) -> str:
    return " and ".join(sorted(values)) or "no side"
