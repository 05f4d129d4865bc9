"""What clauses say against each other: the rules that need no language."""

from collections.abc import Iterator, Sequence
from itertools import combinations

from .clauses import Clause, Thing
from .findings import Finding


def clause_findings(clauses: Sequence[Clause], text: str) -> Iterator[Finding]:
    """text: as written, for the messages."""
    yield from _duplicates(clauses, text)
    replaced: list[Finding] = []
    for first, second in combinations(clauses, 2):
        yield from _kept_and_changed(first, second, text)
        replaced += _removed_and_added(first, second, text)
    yield from replaced
    for clause in clauses:
        if clause.action == "change" and _changes_nothing(clause):
            message = f"“{_said(clause, text)}” changes nothing"
            yield Finding("contradiction", clause.span, message, "say what it is now and what it becomes")
        if clause.is_bare and not any(one.span[0] <= clause.span[0] < one.span[1] for one in replaced):
            message = f"“{_said(clause, text)}” says neither where nor of what look"
            yield Finding("bare_addition", clause.span, message, "say where it goes, and its color, material or size")


def _duplicates(clauses: Sequence[Clause], text: str) -> Iterator[Finding]:
    seen: dict[object, Clause] = {}
    for clause in clauses:
        if not clause.thing.words | clause.thing.place:
            continue
        key = (clause.action, clause.verb, clause.thing.words, clause.thing.place, clause.result)
        if key in seen:
            message = f"“{_said(clause, text)}” is asked twice"
            yield Finding("duplicate", clause.span, message, "say each change once")
        seen.setdefault(key, clause)


def _kept_and_changed(first: Clause, second: Clause, text: str) -> Iterator[Finding]:
    for kept, changed in ((first, second), (second, first)):
        if kept.action != "keep" or changed.action not in ("change", "remove"):
            continue
        if not (kept.is_whole or changed.action == "remove"):
            continue
        is_kept_state = changed.action == "change" and kept.thing.head == changed.thing.head + "".join(changed.result)
        if kept.thing.may_be(changed.thing) or is_kept_state:
            message = f"“{_said(kept, text)}” and “{_said(changed, text)}” contradict each other"
            yield Finding("contradiction", changed.span, message, "leave one of the two out")


def _removed_and_added(first: Clause, second: Clause, text: str) -> Iterator[Finding]:
    for removed, added in ((first, second), (second, first)):
        if removed.action != "remove" or added.action != "add":
            continue
        if added.at_same_place and removed is first or _at_one_place(removed.thing, added.thing):
            span = min(removed.span[0], added.span[0]), max(removed.span[1], added.span[1])
            message = f"“{_said(removed, text)}” and “{_said(added, text)}” are at one place"
            yield Finding("replace", span, message, "say: replace the one with the other")


def _at_one_place(removed: Thing, added: Thing) -> bool:
    if not removed.is_named or not added.is_named:
        return False
    if removed.place and added.place:
        return removed.place == added.place
    return removed.is_kind_of(added)


def _changes_nothing(clause: Clause) -> bool:
    before_after = _halves(clause.result)
    if before_after:
        return before_after[0] == before_after[1]
    return bool(clause.result) and set(clause.result) <= clause.thing.words


def _halves(result: tuple[str, ...]) -> tuple[tuple[str, ...], tuple[str, ...]] | None:
    """("blue", "to", "blue") of "from blue to blue"."""
    for marker in ("to", "into"):
        if marker in result:
            at = result.index(marker)
            return result[:at], result[at + 1 :]
    return None


def _said(clause: Clause, text: str) -> str:
    return " ".join(text[clause.span[0] : clause.span[1]].split())
