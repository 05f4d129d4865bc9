"""From a judge's labels to scores: the rubric decides what a label costs, the judge only says what it sees.

The judge's own number is kept beside the computed one, and each breach of its own rules is told in a sentence that
begins with the rule (A: accuracy, C: completeness, L: clarity, S: form). Clarity has no labels that a score could be
computed from: there the judge's number counts, under the ceilings."""

import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from editcaption_mega.evaluation import rubric
from editcaption_mega.records import Assertion, Changes
from editcaption_mega.settings.evaluation import TermSource

from .reply import AccuracyReply, ClarityReply, CompletenessReply

_MOST_INVENTED = 10  # terms that a judge makes up, each a sentence


@dataclass(frozen=True)
class Scored:
    """One dimension of one judgement."""

    score: float  # computed, 1 .. 5
    judge_score: float | None  # the judge's own; in labels mode it may have none
    labels: dict[str, Any]  # fields of records.Judgement
    details: dict[str, Any]  # what else the score rests on; for the provenance
    deviations: tuple[str, ...] = ()


def score_reply(
    reply: AccuracyReply | CompletenessReply | ClarityReply,
    truth: Changes,
    instruction: str,
    *,
    table: rubric.CompletenessTable = "listing2",
    terms: TermSource = "lexicon",
) -> Scored:
    """Score one dimension of `instruction` from a parsed reply (its ids are those of `truth`)."""
    if isinstance(reply, AccuracyReply):
        return _accuracy(reply, truth)
    if isinstance(reply, CompletenessReply):
        return _completeness(reply, truth, table)
    return _clarity(reply, instruction, terms)


def accuracy_of(assertions: Sequence[Assertion], truth: Changes) -> tuple[int, int, int]:
    """(accuracy, accuracy without the coverage caps, primary changes that the assertions are about).

    A claim that has nothing to do with the pictures is a fabrication beside others; alone it makes the score 1, as
    does a text that claims nothing."""
    primary = {change.id for change in truth.primary}
    verdicts = Counter(assertion.verdict for assertion in assertions)
    unrelated = verdicts["unrelated"] == len(assertions)
    covered = {claim.change for claim in assertions if claim.verdict in ("correct", "minor", "major")} & primary
    errors: dict[str, Any] = dict(
        fabricated=verdicts["fabricated"] + verdicts["unrelated"],
        major_errors=verdicts["major"],
        minor_errors=verdicts["minor"],
        unrelated=unrelated,
    )
    total = len(primary)
    score = rubric.accuracy_score(len(covered), total, **errors)
    return score, rubric.accuracy_score(total, total, **errors), len(covered)


def _accuracy(reply: AccuracyReply, truth: Changes) -> Scored:
    assertions, deviations = [], []
    for claim in reply.assertions:
        verdict = _severity(claim, truth)
        if verdict != claim.verdict:
            about = f"{claim.text!r} is wrong about {claim.change}"
            deviations.append(f"A5: {about}: {verdict}, the judge says {claim.verdict}")
        assertions.append(claim.model_copy(update={"verdict": verdict}))
    score, without_coverage, covered = accuracy_of(assertions, truth)
    total = len(truth.primary)
    if reply.score is None:
        deviations.append("S3: accuracy has no score from 1 to 5 of the judge's own")
    elif reply.score != int(reply.score):
        deviations.append(f"S3: accuracy {reply.score:g} is no whole number")
    if reply.score is not None and reply.score != score:
        errors = Counter(claim.verdict for claim in assertions if claim.verdict != "correct")
        rule = "A3" if errors["fabricated"] and score == 2 else "A5" if errors and score == without_coverage else "A4"
        listed = ", ".join(f"{count} {verdict}" for verdict, count in sorted(errors.items())) or "no error"
        why = f"{listed}, {covered} of {total} changes covered"
        deviations.append(f"{rule}: accuracy {reply.score:g}, its labels give {score} ({why})")
    details = {"acc_no_coverage": without_coverage, "covered": covered}
    return Scored(score, reply.score, {"assertions": assertions}, details, tuple(deviations))


def _severity(assertion: Assertion, truth: Changes) -> str:
    """What a wrong statement is about says how grave it is (table 7): a primary change or not."""
    if assertion.verdict not in ("minor", "major") or assertion.change is None:
        return assertion.verdict
    return "major" if assertion.change in {change.id for change in truth.primary} else "minor"


def _completeness(reply: CompletenessReply, truth: Changes, table: rubric.CompletenessTable) -> Scored:
    hit = {label.id for label in reply.changes if label.label == "HIT"}
    hits = [change.id for change in truth.primary if change.id in hit]
    misses = [change.id for change in truth.primary if change.id not in hit]
    secondary = [change.id for change in truth.secondary if change.id in reply.secondary_hits]
    total = len(truth.primary)
    score = rubric.completeness_score(len(hits), total, len(secondary), table)
    deviations = []
    if reply.score is None:
        deviations.append("S3: completeness has no score from 1 to 5 of the judge's own")
    elif reply.score % 0.5:
        deviations.append(f"S3: completeness {reply.score:g} is in no row of the table")
    if reply.score is not None and reply.score != score:
        rule = "C3" if abs(reply.score - score) == rubric.SECONDARY_BONUS else "C2"
        why = f"{len(hits)} of {total} hit, {len(secondary)} secondary"
        deviations.append(f"{rule}: completeness {reply.score:g}, its labels give {score:g} ({why})")
    printed = re.search(r"\bR\s*=\s*(\d+(?:\.\d+)?)\s*%", reply.reasoning)
    if printed and abs(float(printed[1]) - 100 * len(hits) / total) > 1:
        deviations.append(f"C5: it says R={printed[1]}%, its labels give {100 * len(hits) / total:.0f} %")
    labels = {"hits": hits, "misses": misses, "secondary_hits": secondary}
    return Scored(score, reply.score, labels, {}, tuple(deviations))


def _clarity(reply: ClarityReply, instruction: str, source: TermSource) -> Scored:
    lowered = " ".join(instruction.lower().split())
    named = list(dict.fromkeys(" ".join(term.lower().split()) for term in reply.forbidden_terms))
    seen = [t for t in named if t in lowered and re.search(rf"(?<!\w){re.escape(t)}(?!\w)", lowered)]
    unseen = set(named) - set(seen)
    invented = [term for term in named if term in unseen][:_MOST_INVENTED]
    terms = _terms(rubric.forbidden_terms(instruction), seen, source)
    words = len(instruction.split())
    assert reply.score is not None, "clarity's own number counts in both modes, so `parse_reply` asks for it"
    score = rubric.clarity_score(reply.score, len(terms), words=words, points=reply.information_points)
    deviations = [f"L1: it names a forbidden term that is not in the text: {term!r}" for term in invented]
    if reply.score > rubric.ceiling(len(seen)):
        limit = rubric.ceiling(len(seen))
        deviations.append(
            f"L2: clarity {reply.score:g} over the ceiling {limit:g} of the {len(seen)} terms that it names"
        )
    details = {"words": words, "information_points": reply.information_points, "judge_forbidden": seen}
    return Scored(score, reply.score, {"forbidden": terms}, details, tuple(deviations))


def _terms(lexicon: list[str], judge: list[str], source: TermSource) -> list[str]:
    """The terms that count. A judge writes a term as it stands in the text ("optimizing"), the lexicon its first form:
    one counts once."""
    if source == "lexicon":
        return lexicon
    if source == "judge":
        return judge
    common = {term: [other for other in judge if _same(term, other)] for term in lexicon}
    if source == "intersection":
        return [term for term in lexicon if common[term]]
    return lexicon + [other for other in judge if not any(_same(term, other) for term in lexicon)]


def _same(term: str, other: str) -> bool:
    within = f" {term} " in f" {other} " or f" {other} " in f" {term} "
    return within or (len(term) > 4 and other.startswith(term[:-1]))
