"""A judge without a model: scores an instruction for a synthetic pair from its facts, by the rubric.

The labels that a judge model would return (hits, assertions, errors) come from parsing the text. Secondary changes
(what follows from an edit, such as a shadow) cannot be said in the synthetic world's grammar and give no bonus."""

from dataclasses import dataclass

from editcaption_mega.data.synthetic.named_changes import Facts, NamedChange, named_changes, wrong_claims
from editcaption_mega.data.synthetic.phrasing import parse_clauses
from editcaption_mega.evaluation import rubric
from editcaption_mega.records import Assertion, Changes

# What the opposite of these does is another operation, as remove is to add: reversing them is a MISS (listing 2).
REVERSED_BY_DIRECTION = ("camera_zoom",)  # in or out


@dataclass(frozen=True)
class RuleJudgement:
    """Scores of one instruction (1 .. 5 each) and what they were computed from."""

    accuracy: int
    completeness: float
    clarity: float
    hits: tuple[str, ...]  # ids of the primary changes that are mentioned, right or wrong
    named: tuple[str, ...]  # ids of those that are exactly right
    major_errors: int  # claims about a primary change that state it wrongly
    fabricated: int  # claims about nothing that changed
    forbidden: tuple[str, ...]
    changes: tuple[NamedChange, ...]  # with the failure modes of each primary change

    @property
    def weighted(self) -> float:
        return rubric.weighted_score(self.accuracy, self.completeness, self.clarity)

    @property
    def correct(self) -> bool:
        """Every primary change is named exactly, and nothing else is claimed."""
        return len(self.named) == len(self.changes) and not self.major_errors and not self.fabricated

    @property
    def failure_modes(self) -> set[str]:
        return {mode for change in self.changes for mode in change.failure_modes}


def judge(instruction: str, truth: Changes) -> RuleJudgement:
    """Raises ValueError when the truth has no facts: only the synthetic world's pairs have them.

    Clarity: 1 when no clause can be executed; else 5, or 4 where a clause leaves out an attribute that tells what is
    meant, and never above the ceiling of the forbidden terms."""
    changes, wrong = named_changes(instruction, truth), wrong_claims(instruction, truth)
    facts = {change.id: change.facts or {} for change in truth.primary}
    hits = tuple(c.change_id for c in changes if c.named or _mentions(facts[c.change_id], c.claim))
    inventions = [claim for claim in wrong if claim.mistaken_for is None]
    mistakes = [claim for claim in wrong if claim.mistaken_for is not None]
    major = [one for one in mistakes if one.mistaken_for and not _only_leaves_out(facts[one.mistaken_for], one.facts)]
    named = tuple(change.change_id for change in changes if change.named)
    said_something = bool(named or wrong)
    about_it = bool(named or mistakes)
    forbidden = tuple(rubric.forbidden_terms(instruction))
    clarity = 1.0
    if said_something:
        clarity = 4.0 if len(major) < len(mistakes) else 5.0
        clarity = min(clarity, rubric.clarity_ceiling(instruction))
    return RuleJudgement(
        accuracy=rubric.accuracy_score(
            len(hits), len(changes), fabricated=len(inventions), major_errors=len(major), unrelated=not about_it
        ),
        completeness=rubric.completeness_score(len(hits), len(changes)),
        clarity=clarity,
        hits=hits,
        named=named,
        major_errors=len(major),
        fabricated=len(inventions),
        forbidden=forbidden,
        changes=tuple(changes),
    )


def assertions(instruction: str, truth: Changes) -> list[Assertion]:
    """Each clause that the grammar reads, in order, labelled as a judge model would: what `judge` counts. Errors as
    `judge`."""
    changes, wrong = named_changes(instruction, truth), wrong_claims(instruction, truth)
    facts = {change.id: change.facts or {} for change in truth.primary}
    invention = "fabricated" if any(c.named for c in changes) or any(c.mistaken_for for c in wrong) else "unrelated"
    named = {change.change_id: change.claim for change in changes if change.named}
    remaining, found = iter(wrong), []
    for text, claim in parse_clauses(instruction):
        change = next((change_id for change_id, facts in named.items() if facts == claim), None)
        if change is not None:
            del named[change]
            verdict = "correct"
        else:
            change = next(remaining).mistaken_for
            verdict = invention
            if change is not None:
                verdict = "correct" if _only_leaves_out(facts[change], claim) else "major"
        found.append(Assertion(text=text, verdict=verdict, change=change))
    return found


def _mentions(truth: Facts, claim: Facts | None) -> bool:
    """Whether the claim is a HIT: this operation on this object, with whatever attributes."""
    if claim is None or claim["action"] != truth["action"]:
        return False
    if truth["action"] in REVERSED_BY_DIRECTION and claim["direction"] != truth["direction"]:
        return False
    if "object" not in truth:
        return True
    return bool(truth["object"].get("shape") == claim.get("object", {}).get("shape"))


def _only_leaves_out(truth: Facts, claim: Facts) -> bool:
    """Whether all that the claim says is true, and it just says less (no error of accuracy, listing 1)."""
    for key, value in claim.items():
        if key not in truth:
            return False
        if isinstance(value, dict):
            if not (isinstance(truth[key], dict) and _only_leaves_out(truth[key], value)):
                return False
        elif truth[key] != value:
            return False
    return True
