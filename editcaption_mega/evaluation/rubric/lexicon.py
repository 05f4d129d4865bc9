"""The forbidden terms of the rubric's clarity (listing 3): the lexicon in forbidden_terms.yaml, and how it is read."""

import re
from functools import cache
from importlib import resources

import yaml


def forbidden_terms(text: str) -> list[str]:
    """The forbidden terms of listing 3 in the text: each once, lower case, in order of appearance.

    Vague verbs count only where their clause gives no target state ("adjust the brightness", but not "adjust the sky to
    deep blue"; "to look better" is none); this and that only where they stand alone. The lexicon is
    forbidden_terms.yaml."""
    first: dict[str, int] = {}  # term -> where it stands first
    lowered = text.lower()
    for pattern, name, needs_no_state in _patterns():
        for match in pattern.finditer(lowered):
            if needs_no_state and _gives_state(_rest_of_clause(lowered, match.end())):
                continue
            term = name or " ".join(match.group().split())
            first[term] = min(first.get(term, match.start()), match.start())
    return sorted(first, key=first.__getitem__)


_TARGET_STATE = re.compile(r"\b(?:to|into|from|until|so that|as|by \d)\b")


def _gives_state(clause: str) -> bool:
    state = _TARGET_STATE.search(clause)
    return state is not None and not _subjective().search(clause, state.start())


@cache
def _subjective() -> re.Pattern[str]:
    return re.compile(rf"\b(?:{'|'.join(map(re.escape, _lexicon()['no_target_state']))})\b")


def _rest_of_clause(text: str, start: int) -> str:
    end = re.search(r"[.;!?\n]", text[start:])
    return text[start:] if end is None else text[start : start + end.start()]


@cache
def _patterns() -> tuple[tuple[re.Pattern[str], str, bool], ...]:
    """(pattern, name or "" for the match itself, whether a target state excuses it)."""
    lexicon, patterns = _lexicon(), []
    for verb in lexicon["vague_verbs"]:
        stem = verb[:-1] if verb.endswith("e") else verb[:-1] + "i" if verb.endswith("y") else verb
        forms = rf"{verb}|{stem}(?:e?s|e?d|ing)"
        if verb.endswith("y"):
            forms += rf"|{verb}ing"
        patterns.append((re.compile(rf"\b(?:{forms})\b"), verb, True))
    for phrase in lexicon["vague_degrees"] + lexicon["vague_references"]:
        patterns.append((re.compile(rf"\b{re.escape(phrase)}\b".replace(r"\ ", r"\s+")), phrase, False))
    alone = "|".join(lexicon["alone_before"])
    for word in lexicon["bare_references"]:
        patterns.append((re.compile(rf"\b{word}\b(?=\s*(?:$|[.,;:!?\n]|(?:{alone})\b))"), word, False))
    return tuple(patterns)


@cache
def _lexicon() -> dict[str, list[str]]:
    file = resources.files("editcaption_mega.evaluation.rubric").joinpath("forbidden_terms.yaml")
    words: dict[str, list[str]] = yaml.safe_load(file.read_text("utf-8"))
    return words
