"""What the machine-readable truth of a pair says of an instruction."""

from dataclasses import dataclass

from editcaption_mega.data.synthetic.named_changes import named_changes, wrong_claims
from editcaption_mega.records import Changes
from editcaption_mega.records.pair import FAILURE_MODES


@dataclass(frozen=True)
class Verdict:
    """What the truth says of an instruction.

    correct: it names each primary change exactly and claims nothing else. failure_modes: of what it gets wrong, in the
    order of records.FAILURE_MODES; empty when it only leaves something out or invents it. severity: 0 .. 1, the mean
    over the primary changes of 1 (left out, or another action), 1/2 (the action named, an attribute wrong) and 0
    (named), plus 1/2 per primary change for each pure invention, at most 1."""

    correct: bool
    failure_modes: tuple[str, ...]
    severity: float


def verdict(instruction: str, truth: Changes) -> Verdict:
    """Raises ValueError when the truth has no facts (only the synthetic world's has)."""
    changes, wrong = named_changes(instruction, truth), wrong_claims(instruction, truth)
    modes = {mode for change in changes for mode in change.failure_modes}
    points = 0.0
    for change, true in zip(changes, truth.primary, strict=True):
        if not change.named:
            halfway = change.claim is not None and change.claim["action"] == (true.facts or {})["action"]
            points += 0.5 if halfway else 1.0
    points += 0.5 * sum(claim.mistaken_for is None for claim in wrong)
    correct = not wrong and all(change.named for change in changes)
    return Verdict(correct, tuple(m for m in FAILURE_MODES if m in modes), min(1.0, points / len(changes)))
