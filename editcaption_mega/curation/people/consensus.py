"""Several people's answers to a task made one, by a stated rule.

1. Verdict: the one that more than half of the answers give. Where there is none the task is undecided and left out.
2. Tags: those that more than half of the corrections have (where there is none, the primary one). The primary tag comes
   first: the one that is most often first, of equals the one that stands first in the form.
3. Severity: the most frequent one of the corrections, of equals the worst.
4. Text: one person's, whole: the correction that is nearest to the others (mean similarity of tokens); of equals that
   of the first annotator by name. Texts are never blended. Its spans come with it."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from editcaption_mega.evaluation.human.verdicts import most_frequent
from editcaption_mega.records.evaluation import Severity

from .pair_answers import PairAnswer
from .questions import AnswerVerdict, people_form
from .same_text import token_similarity


@dataclass(frozen=True)
class Consensus:
    """What the answers to a task come to; verdict None: undecided."""

    verdict: AnswerVerdict | None
    answers: tuple[PairAnswer, ...]
    tags: tuple[str, ...] = ()  # the primary one first
    severity: Severity | None = None
    text_of: PairAnswer | None = None  # whose correction it is

    @property
    def agreeing(self) -> list[PairAnswer]:
        return [answer for answer in self.answers if answer.verdict == self.verdict]


def consensus(answers: Sequence[PairAnswer], form: str) -> Consensus:
    """The opinion of accepted answers to one task (at least one), annotators in the order of their names."""
    ((verdict, votes),) = Counter(answer.verdict for answer in answers).most_common(1)
    if 2 * votes <= len(answers):
        return Consensus(None, tuple(answers))
    if verdict != "corrected":
        return Consensus(verdict, tuple(answers))
    corrections = [answer for answer in answers if answer.verdict == "corrected"]
    order = list(people_form(form).tags)
    first = Counter(answer.tags[0] for answer in corrections)
    primary = max(first, key=lambda tag: (first[tag], -order.index(tag)))
    by_tag = Counter(tag for answer in corrections for tag in set(answer.tags))
    others = [tag for tag in order if tag != primary and 2 * by_tag[tag] > len(corrections)]
    severity = most_frequent([answer.level for answer in corrections]) if people_form(form).severities else None
    return Consensus(verdict, tuple(answers), (primary, *others), severity, _nearest(corrections))


def _nearest(corrections: Sequence[PairAnswer]) -> PairAnswer:
    def nearness(answer: PairAnswer) -> float:
        others = [other for other in corrections if other is not answer]
        return fmean(token_similarity(answer.text or "", other.text or "") for other in others) if others else 1.0

    return max(corrections, key=nearness)  # the first of equals
