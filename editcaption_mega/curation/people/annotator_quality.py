"""How good each annotator's answers are, and how far annotators agree where tasks overlap."""

from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from statistics import fmean, median
from typing import Any

from editcaption_mega.evaluation.human.agreement import krippendorff_alpha, percent_agreement
from editcaption_mega.evaluation.human.filed_answers import Refused
from editcaption_mega.evaluation.stats.intervals import bootstrap_interval, wilson_interval
from editcaption_mega.records import SEVERITIES

from .consensus import Consensus, consensus
from .pair_answers import PairAnswer
from .questions import ANSWER_VERDICTS, people_form
from .same_text import token_similarity

Opinions = Mapping[str, Consensus]  # task -> what its answers come to


def annotator_quality(opinions: Opinions, form: str, refused: Iterable[Refused] = ()) -> dict[str, dict[str, Any]]:
    """Annotator -> {"answers", "refused", "verdicts", "seconds": median per task, "compared": tasks that others decided
    too, "verdict_agreement" with a 95 % interval (Wilson), "tag_agreement", "text_similarity"}.

    An annotator is compared with what the *others'* answers come to, never with an opinion that holds the own one.
    tag_agreement: mean of shared over all tags of both (Jaccard); text_similarity: of the texts' tokens; where both
    corrected."""
    own: dict[str, list[tuple[PairAnswer, Consensus | None]]] = {}
    for opinion in opinions.values():
        for answer in opinion.answers:
            others = [other for other in opinion.answers if other is not answer]
            theirs = consensus(others, form) if others else None
            own.setdefault(answer.annotator, []).append(
                (answer, theirs if theirs is not None and theirs.verdict is not None else None)
            )
    refusals = Counter(row.annotator for row in refused if row.annotator is not None)
    names = sorted(own.keys() | refusals.keys())
    return {name: {**_quality(own.get(name, [])), "refused": refusals[name]} for name in names}


def _quality(rows: Sequence[tuple[PairAnswer, Consensus | None]]) -> dict[str, Any]:
    compared = [(answer, theirs) for answer, theirs in rows if theirs is not None]
    hits = sum(answer.verdict == theirs.verdict for answer, theirs in compared)
    both = [
        (answer, theirs, theirs.text_of)
        for answer, theirs in compared
        if answer.verdict == "corrected" and theirs.text_of is not None
    ]
    tags = [len({*a.tags} & {*theirs.tags}) / len({*a.tags} | {*theirs.tags}) for a, theirs, _ in both]
    texts = [token_similarity(answer.text or "", text.text or "") for answer, _, text in both]
    seconds = [answer.seconds for answer, _ in rows if answer.seconds is not None]
    return {
        "answers": len(rows),
        "verdicts": dict(Counter(answer.verdict for answer, _ in rows)),
        "seconds": median(seconds) if seconds else None,
        "compared": len(compared),
        "verdict_agreement": hits / len(compared) if compared else None,
        "interval": list(wilson_interval(hits, len(compared))) if compared else None,
        "tag_agreement": fmean(tags) if tags else None,
        "text_similarity": fmean(texts) if texts else None,
    }


def overlap(opinions: Opinions, form: str) -> dict[str, Any]:
    """How far annotators agree: tasks by their number of answers; of the verdicts the share of pairs of annotators that
    agree and Krippendorff's alpha (nominal); alpha of the severities (ordinal, already_correct as the best) and of each
    tag; the mean similarity of corrections. Each with a 95 % interval; a value is None where it is not defined."""
    answers = [opinion.answers for opinion in opinions.values()]
    annotators = sorted({answer.annotator for row in answers for answer in row})
    units = [{answer.annotator: answer for answer in row} for row in answers]

    def ratings(read: Any) -> list[list[Any]]:
        return [[read(unit[name]) if name in unit else None for name in annotators] for unit in units]

    verdicts = ratings(lambda answer: answer.verdict)
    agreement: dict[str, Any] = {
        "tasks": len(answers),
        "answers_per_task": dict(sorted(Counter(map(len, answers)).items())),
        "undecided": sum(opinion.verdict is None for opinion in opinions.values()),
        "verdict_agreement": percent_agreement(verdicts).to_json(),
        "verdict_alpha": krippendorff_alpha(verdicts, ANSWER_VERDICTS, "nominal").to_json(),
        "text_similarity": _similarity(answers),
    }
    if people_form(form).severities:
        levels = ratings(lambda answer: None if answer.verdict == "unusable" else answer.level)
        agreement["severity_alpha"] = krippendorff_alpha(levels, SEVERITIES, "ordinal").to_json()
    agreement["tag_alpha"] = {
        tag: krippendorff_alpha(
            ratings(lambda answer, tag=tag: int(tag in answer.tags) if answer.verdict == "corrected" else None),
            (0, 1),
            "nominal",
        ).to_json()
        for tag in people_form(form).tags
    }
    return agreement


def _similarity(answers: Iterable[Sequence[PairAnswer]]) -> dict[str, Any]:
    """Of the corrections of each task, each two annotators; a task is one unit."""
    means = []
    for row in answers:
        texts = [answer.text or "" for answer in row if answer.verdict == "corrected"]
        pairs = [token_similarity(a, b) for i, a in enumerate(texts) for b in texts[i + 1 :]]
        means += [fmean(pairs)] if pairs else []
    interval = list(bootstrap_interval(means)) if means else None
    return {"value": fmean(means) if means else None, "interval": interval, "n": len(means)}
