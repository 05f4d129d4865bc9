"""The grammar of the synthetic world, both ways: `phrase` writes facts, `parse` reads them (table: templates.py)."""

import random
import re
from collections.abc import Iterator, Sequence
from functools import cache
from itertools import product
from typing import Any

from editcaption_mega.data.synthetic.edits import Facts
from editcaption_mega.data.synthetic.templates import FORMS, JOINERS, SPELLINGS, Form

_ALIASES = {
    "an": "a",
    "gray": "grey",
    "greyscale": "grayscale",
    "color": "colour",
    "recolor": "recolour",
    "centre": "center",
}
_CLAUSE_END = re.compile(r"[.,;:!?\n]|\b(?:and|then|also)\b", re.IGNORECASE)
_SLOT = re.compile(r"\{([a-z.]+)(?:!([a-z]+))?\}")
_SLOT_AND_SPACE = re.compile(_SLOT.pattern + "( ?)")


def phrase(facts: Facts, rng: random.Random, *, phrasings: int | None = None) -> str:
    """One sentence for one edit, in a template that `rng` chooses among the first `phrasings` (None: all).

    Raises ValueError when no template says these facts."""
    return phrase_all([facts], rng, phrasings=phrasings)


def phrase_all(edits: Sequence[Facts], rng: random.Random, *, phrasings: int | None = None) -> str:
    """One sentence for all edits of a pair (two clauses and a joiner for a hybrid). Errors as `phrase`."""
    clauses = [_fill(rng.choice(_form_of(facts).templates[:phrasings]), facts) for facts in edits]
    sentence = clauses[0]
    for clause in clauses[1:]:
        sentence += rng.choice(JOINERS[:phrasings]) + clause[0].lower() + clause[1:]
    return sentence + "."


def phrase_each(facts: Facts) -> list[str]:
    """Every sentence the grammar has for one edit, the canonical one first. Errors as `phrase`."""
    return [_fill(template, facts) + "." for template in _form_of(facts).templates]


def parse(instruction: str) -> list[Facts]:
    """The facts that an instruction states, in its order; clauses that are not of the grammar are left out.

    Case, punctuation and American spelling do not matter. A size or colour that a clause leaves out is absent from its
    facts ("remove the circle" names {"shape": "circle"}). Never raises on a string.
    """
    return [facts for _, facts in parse_clauses(instruction)]


def parse_clauses(instruction: str) -> list[tuple[str, Facts]]:
    """As `parse`, each with the words of the instruction that state it."""
    found = []
    for clause in _CLAUSE_END.split(instruction):
        words = [_ALIASES.get(word, word) for word in re.findall(r"[a-z0-9]+", clause.lower())]
        if words:
            found += [(clause.strip(), facts) for facts in _read(words)]
    return found


def every_facts() -> Iterator[Facts]:
    """Every edit that the grammar can say, in a fixed order (some thousands; includes those no scene allows)."""
    for form in FORMS:
        for values in product(*form.slots.values()):
            facts = {"action": form.action}
            for path, value in zip(form.slots, values, strict=True):
                _write_path(facts, path, value)
            yield facts


def vocabulary() -> list[str]:
    """Every distinct word of the grammar, lower case, sorted."""
    words = {word for joiner in JOINERS for word in re.findall(r"[a-z]+", joiner)} | {"an"}
    for form in FORMS:
        for template in form.templates:
            words.update(re.findall(r"[a-z]+", _SLOT.sub(" ", template).lower()))
            for path, spelling in _SLOT.findall(template):
                for value in form.slots[path]:
                    words.update(_spell(value, spelling).lower().split())
    return sorted(words)


def _form_of(facts: Facts) -> Form:
    paths = set(_paths(facts))
    for form in FORMS:
        if form.action == facts.get("action") and set(form.slots) == paths:
            if all(_read_path(facts, path) in values for path, values in form.slots.items()):
                return form
    raise ValueError(f"no template says {facts}: see the table of facts in edits.py and the slots in phrasing.FORMS")


def _fill(template: str, facts: Facts) -> str:
    text = _SLOT.sub(lambda slot: _spell(_read_path(facts, slot[1]), slot[2] or ""), template)
    return re.sub(r"\ba (?=[aeiou])", "an ", text)


def _spell(value: Any, spelling: str) -> str:
    return SPELLINGS[spelling].get(value, str(value))


def _paths(facts: Facts) -> Iterator[str]:
    for key, value in facts.items():
        if isinstance(value, dict):
            yield from (f"{key}.{inner}" for inner in value)
        elif key != "action":
            yield key


def _read_path(facts: Facts, path: str) -> Any:
    for key in path.split("."):
        facts = facts[key]
    return facts


def _write_path(facts: Facts, path: str, value: Any) -> None:
    *outer, last = path.split(".")
    for key in outer:
        facts = facts.setdefault(key, {})
    facts[last] = value


def _read(words: list[str]) -> list[Facts]:
    clause = " ".join(words)
    for pattern, action, slots in _patterns().get(words[0], ()):
        if match := pattern.fullmatch(clause):
            facts: Facts = {"action": action}
            for group, (path, values) in slots.items():
                if match[group] is not None:
                    _write_path(facts, path, values[match[group]])
            return [facts]
    return []


type _Slots = dict[str, tuple[str, dict[str, Any]]]  # group of a pattern -> (path, {spelt: value})


@cache
def _patterns() -> dict[str, list[tuple[re.Pattern[str], str, _Slots]]]:
    """By first word: (pattern, action, slots). A size or colour of a noun may be absent."""
    found: dict[str, list[tuple[re.Pattern[str], str, _Slots]]] = {}
    for form in FORMS:
        for template in form.templates:
            slots: _Slots = {}

            def group(slot: re.Match[str], form: Form = form, slots: _Slots = slots) -> str:
                path, spelling, space = slot[1], slot[2] or "", slot[3]
                name = f"slot{len(slots)}"
                spelt = {_spell(value, spelling).lower(): value for value in form.slots[path]}
                slots[name] = path, spelt
                choice = f"(?P<{name}>{'|'.join(sorted(spelt, key=len, reverse=True))}){space}"
                return f"(?:{choice})?" if path.endswith((".colour", ".size")) else choice

            first, _, rest = template.partition(" ")
            pattern = re.compile(first.lower() + " " + _SLOT_AND_SPACE.sub(group, rest))
            found.setdefault(first.lower(), []).append((pattern, form.action, slots))
    return found
