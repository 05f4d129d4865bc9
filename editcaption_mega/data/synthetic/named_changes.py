"""Does an instruction name the changes of a synthetic pair? Exact, from facts: no judge and no model.

The failure modes are the paper's (section 1): orientation, viewpoint, detail.
"""

from dataclasses import dataclass
from typing import Any

from editcaption_mega.records import Changes

from .edits import CAMERA_ACTIONS
from .phrasing import parse

Facts = dict[str, Any]

ORIENTATION_KEYS = ("direction", "axis", "place")


@dataclass(frozen=True)
class NamedChange:
    """One primary change and what the instruction makes of it.

    named: a clause states exactly these facts. claim: the facts of that clause, or of the clause that comes closest to
    it, or None where none is about this change. failure_modes: empty when named, and when the change is simply left out
    (unless it is a camera change); sorted as in records.FAILURE_MODES.
    """

    change_id: str
    named: bool
    failure_modes: tuple[str, ...]
    claim: Facts | None


@dataclass(frozen=True)
class WrongClaim:
    """A clause whose facts are no primary change (or that repeats one). mistaken_for: the id of the primary change that
    it states wrongly, or None where it is a pure invention."""

    facts: Facts
    mistaken_for: str | None


def named_changes(instruction: str, truth: Changes) -> list[NamedChange]:
    """One verdict per primary change, in the truth's order.

    Raises ValueError when a primary change has no facts (only the synthetic world's pairs have them)."""
    return _match(instruction, truth)[0]


def wrong_claims(instruction: str, truth: Changes) -> list[WrongClaim]:
    """The clauses that state something that is not so (hallucinations), in the instruction's order. Errors as above."""
    return _match(instruction, truth)[1]


def failure_modes_of(truth: Facts, claim: Facts | None) -> tuple[str, ...]:
    """How a claim misses a primary change it does not equal.

    viewpoint: the truth or the claim is a camera change (zoom, pan, mirror) and the claim gets it wrong, confuses it
    with another action or, the truth being one, leaves it out. orientation: the same action on the same object with a
    wrong direction, axis or place. detail: the same action with another attribute (colour, shape, texture, size, count,
    text, object) wrong or missing. A camera panned or mirrored the wrong way is both of the first two.
    """
    if truth["action"] in CAMERA_ACTIONS or (claim and claim["action"] in CAMERA_ACTIONS):
        turned = claim is not None and claim["action"] == truth["action"] != "camera_zoom"
        return ("orientation", "viewpoint") if turned else ("viewpoint",)
    if claim is None or claim["action"] != truth["action"]:
        return ()
    wrong = {key for key in truth.keys() | claim.keys() if truth.get(key) != claim.get(key)}
    turned = {key for key in wrong & set(ORIENTATION_KEYS) if key in truth and key in claim}
    modes = []
    if turned and truth.get("object") == claim.get("object"):
        modes.append("orientation")
    if wrong - turned:
        modes.append("detail")
    return tuple(modes)


def _match(instruction: str, truth: Changes) -> tuple[list[NamedChange], list[WrongClaim]]:
    changes = {change.id: _facts(change.id, change.facts) for change in truth.primary}
    claims = dict(enumerate(parse(instruction)))
    taken: dict[int, str] = {}  # number of the claim -> id of the change it is about
    for change_id, facts in changes.items():
        for number, claim in claims.items():
            if number not in taken and claim == facts:
                taken[number] = change_id
                break
    named = set(taken.values())
    # The best remaining likeness first, so that a claim goes to the change it is closest to.
    likenesses = sorted(
        (-likeness, order, number)
        for order, (change_id, facts) in enumerate(changes.items())
        for number, claim in claims.items()
        if change_id not in named and number not in taken and (likeness := _likeness(facts, claim))
    )
    ids = list(changes)
    for _, order, number in likenesses:
        if number not in taken and ids[order] not in taken.values():
            taken[number] = ids[order]
    claim_of = {change_id: claims[number] for number, change_id in taken.items()}
    verdicts = [
        NamedChange(
            change_id=change_id,
            named=change_id in named,
            failure_modes=() if change_id in named else failure_modes_of(facts, claim_of.get(change_id)),
            claim=claim_of.get(change_id),
        )
        for change_id, facts in changes.items()
    ]
    wrong = [
        WrongClaim(facts=claim, mistaken_for=taken.get(number))
        for number, claim in claims.items()
        if taken.get(number) not in named
    ]
    return verdicts, wrong


def _likeness(facts: Facts, claim: Facts) -> int:
    """0 where a claim is not about this change; else higher for the same action, the same object, more equal values."""
    same_action = facts["action"] == claim["action"]
    same_object = "object" in facts and facts["object"] == claim.get("object")
    camera = facts["action"] in CAMERA_ACTIONS or claim["action"] in CAMERA_ACTIONS
    if not (same_action or same_object or camera):
        return 0
    equal = sum(bool(facts[key] == claim.get(key)) for key in facts)
    return 100 * bool(same_action) + 10 * bool(same_object) + equal + 1


def _facts(change_id: str, facts: Facts | None) -> Facts:
    if facts is None:
        raise ValueError(
            f"primary change {change_id!r} has no facts: named_changes reads the synthetic world's truth only; "
            "judge other pairs with a judge model or with people"
        )
    return facts
