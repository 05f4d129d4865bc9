"""English instructions as clauses. Heuristics over word lists: no model, no parser, a few microseconds per word."""

import re
from collections.abc import Iterator

from .clauses import Action, Clause, Thing, word_set

_VERBS: dict[Action, str] = {
    "keep": "keep leave preserve maintain retain",
    "remove": "remove delete erase take eliminate",
    "add": "add insert place put draw include",
    "change": "change turn make recolor recolour replace alter convert paint dye transform modify adjust swap set "
    "render",
    "move": "move shift slide push pull rotate spin pan tilt zoom raise lower enlarge shrink brighten darken scale "
    "crop blur flip relocate dolly increase decrease reduce have give lift drop",
}
_IRREGULAR = {"put": "putting", "spin": "spinning", "pan": "panning", "swap": "swapping", "set": "setting",
              "crop": "cropping", "blur": "blurring", "flip": "flipping", "drop": "dropping"}  # fmt: skip
CAMERA_VERBS = ("pan", "tilt", "zoom", "dolly")
_EMPTY = word_set(
    "a an the some its his her their it them same as is are be this these those all any new old then now also and "
    "completely entirely please again still with of"
)
_STATES = (
    r"\b(?:completely |entirely |exactly )?(?:unchanged|the same(?! (?!and|while|but|as)\w)|as (?:it|they) (?:is|are)|"
    r"as is|intact|untouched|unaltered)\b"
)
_PLACE = re.compile(
    r"\b(?:at|in|on|onto|from|near|to|into|with|by|beside|behind|under|above|below|next to|off|out of|over|around|"
    r"between|inside|through|across|along)\b"
)
_RESULT = re.compile(r"\b(?:from|to|into|with|for|as|so that|by|like)\b")
_SAME_PLACE = re.compile(
    r"\bin (?:its|his|her|their|the) place\b|\b(?:same|that) (?:location|place|spot|position)\b|\bthere\b|\binstead\b|"
    r"\bwhere the [\w -]{1,40} (?:was|were|stood|sat|is|are)\b"
)
_WORDS_OF_LOOK = word_set(
    "red blue green yellow black white gray grey brown orange pink purple teal cyan golden gold silver beige dark "
    "light bright warm cold wet dry big large small tall short long wide open closed transparent metallic wooden round "
    "square taller wider bigger smaller larger brighter darker happy sad face look walk hold"
)
_WEATHER = word_set("snow rain fog mist smoke sunlight sunshine light shadows fire clouds stars lightning")
_NUMBERS = word_set("one two three four five six several many few pair couple")
WORD = re.compile(r"[a-z0-9\ue000-\uf8ff][a-z0-9\ue000-\uf8ff-]*")
_LEADS = "and|then|but|while|also|please|so|without|by|not|never|don't|do|instead|before|after|now|just|simply"


def _forms() -> dict[str, tuple[Action, str]]:
    forms: dict[str, tuple[Action, str]] = {}
    for action, verbs in _VERBS.items():
        for verb in verbs.split():
            gerund = _IRREGULAR.get(verb) or (verb[:-1] + "ing" if verb.endswith("e") else verb + "ing")
            forms[verb] = forms[gerund] = (action, verb)
    return forms


_FORMS = _forms()
_VERB = re.compile(
    rf"(?:^|(?<=[.;:,!?\n])|\b(?:{_LEADS})\b)(?P<lead>\s*(?:(?:{_LEADS})\b[\s,]{{0,9}}){{0,4}})\b(?P<verb>{'|'.join(_FORMS)})\b"
    r"(?P<particle> (?:away|out|up|off)(?= (?:the|a|an|his|her)\b))?"
)
_STAYS = re.compile(
    r"(?:^|[.;:,!?\n]|\b(?:and|but|while)\b)\s*(?P<thing>(?:the|all|his|her|[\w-]+'s) [\w' -]{1,60}?) "
    rf"(?:(?:should|must|will|to) )?(?:remains?|stays?|(?:is|are|be) (?:kept|left)|staying|remaining) (?:{_STATES})"
)
_END = re.compile(r"[.;!?\n]")


def english_clauses(text: str) -> list[Clause]:
    """text: lower case, quotes hidden."""
    verbs = list(_VERB.finditer(text))
    stays = [
        Clause("keep", english_thing(match["thing"]), match.span("thing")) for match in _STAYS.finditer(text)
    ]  # fmt: skip
    clauses = []
    for match, start, end in zip(verbs, [m.start("verb") for m in verbs], _ends(text, verbs), strict=True):
        action, _ = _FORMS[match["verb"]]
        before = text[max(0, match.start() - 9) : match.start("verb")]
        if action != "keep" and re.search(r"\b(?:not|without|never|don't)\b", before):
            action = "keep"
        clauses.append(_clause(action, match["verb"], text[match.end() : end], (start, end), _said_before(text, match)))
    return sorted(clauses + stays, key=lambda clause: clause.span)


def _ends(text: str, verbs: list[re.Match[str]]) -> Iterator[int]:
    for match, following in zip(verbs, [*verbs[1:], None], strict=False):
        end = len(text) if following is None else following.start()
        sentence = _END.search(text, match.end(), end)
        end = sentence.start() if sentence else end
        stays = _STAYS.search(text, match.end(), end)
        if stays:
            end = max(match.end(), stays.start())
        yield len(text[:end].rstrip(" ,:"))


def _said_before(text: str, match: re.Match[str]) -> str:
    """What stands between the start of the sentence and the verb ("on the table, add .."): a place, if it is one."""
    start = max(text.rfind(mark, 0, match.start()) for mark in ".;!?\n") + 1
    before = text[start : match.start("verb")].strip(" ,")
    return before if _PLACE.match(before) or before.startswith("next") else ""


def _clause(action: Action, verb: str, body: str, span: tuple[int, int], before: str) -> Clause:
    body = body.strip(" ,")
    if action == "keep":
        state = re.search(_STATES, body)
        rest = (body[: state.start()] + body[state.end() :]) if state else body
        named = english_thing(rest)
        is_whole = state is not None or not named.place
        return Clause("keep", named, span, is_whole=is_whole)
    if action == "change":
        subject, result = _split_result(body, verb)
        return Clause("change", english_thing(subject), span, tuple(words(result)))
    same_place = _SAME_PLACE.search(body)
    if action in ("add", "remove"):
        named = english_thing(
            re.sub(r"\b(?:away|out)$", "", _SAME_PLACE.sub(" ", body)) + (f" {before}" if before else "")
        )
        bare = action == "add" and not same_place and _is_bare(body) and not before
        return Clause(action, named, span, at_same_place=bool(same_place), is_bare=bare)
    return Clause("move", english_thing(body), span, verb=_FORMS[verb][1])


def _split_result(body: str, verb: str) -> tuple[str, str]:
    if marker := _RESULT.search(body):
        start = marker.end()
        if marker.group() == "from" and not re.search(r"\b(?:to|into)\b", body[start:]):
            return body, ""
        return body[: marker.start()], body[start:]
    parts, named = body.split(), False
    for at, part in enumerate(parts):
        word = part.strip(",")
        if word in _WORDS_OF_LOOK and named:
            return " ".join(parts[:at]), " ".join(parts[at:])
        named = named or (word not in _WORDS_OF_LOOK and word not in _EMPTY)
    return body, ""


def english_thing(text: str) -> Thing:
    """What a phrase names: "the man's red hat on the chair" is a hat, of words man, red, hat, at chair."""
    place = _PLACE.search(text)
    name = text[: place.start()] if place else text
    owned = re.match(r"(.+?) of (.+)", name)
    head = words(owned[1] if owned else name)
    where = words(text[place.end() :]) if place else []
    return Thing(head[-1] if head else "", frozenset(words(name)), frozenset(where))


def words(text: str) -> list[str]:
    """In order, without those that say nothing, possessives as their owners."""
    return [word for word in WORD.findall(re.sub(r"['’]s\b", "", text)) if word not in _EMPTY]


def _is_bare(body: str) -> bool:
    """Whether an addition is one noun and nothing else: neither place nor look."""
    named = [word for word in words(body) if word not in _NUMBERS and not word.isdigit()]
    if len(named) != 1 or named[0] in _WEATHER or named[0][0] >= "\ue000":
        return False
    return not _PLACE.search(body)
