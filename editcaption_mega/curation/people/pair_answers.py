"""People's answers to tasks of pairs, checked: whatever contradicts itself or its task is refused in a sentence.

An answer, whatever tool it was given in, is one JSON object: {"task", "annotator", "verdict": corrected,
already_correct or unusable} and, as the verdict asks, "text" (the instruction as it should be), "tags" (the form's, the
primary one first), "severity" (P0, P1, P2; the preference form's), and where they are known "spans" of the draft
({"start", "end" in characters, "tag", "text", "severity"}), "remark", "pictures" (the sha256 of both as shown),
"seconds" and "time" (ISO 8601)."""

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Annotated, cast

from pydantic import Field

from editcaption_mega.evaluation.human.filed_answers import Filed, FiledAnswer, Refused, one_each, refused_answer
from editcaption_mega.records import EditPair, RecordError, has_words
from editcaption_mega.records.evaluation import EvaluationRecord, Severity
from editcaption_mega.records.record import shown

from .questions import AnswerVerdict, people_form
from .same_text import same_tokens
from .task_records import PairTask, Sha256

_ADDRESS = re.compile(r"\S+@\S+\.\S+")


class MarkedSpan(EvaluationRecord):
    """Where in the draft something is wrong: characters start .. end (the last one not included)."""

    start: Annotated[int, Field(ge=0)]
    end: int
    tag: str
    text: str | None = None  # what stands there, where the tool says it
    severity: str | None = None


class PairAnswer(FiledAnswer):
    """What an annotator says of a task."""

    verdict: AnswerVerdict
    text: str | None = None
    tags: list[str] = []
    severity: str | list[str] | None = None  # a list: what a tool with several choices sends
    spans: list[MarkedSpan] = []
    remark: str = ""
    pictures: Annotated[list[Sha256], Field(min_length=2, max_length=2)] | None = None
    seconds: Annotated[float, Field(ge=0)] | None = None
    time: str | None = None

    @property
    def level(self) -> Severity:
        """The severity; of an answer that was accepted."""
        (level,) = [self.severity] if isinstance(self.severity, str) else self.severity or ["correct"]
        return cast(Severity, level)


@dataclass(frozen=True)
class CheckedAnswers:
    """Every answer is in `accepted` or in `refused`."""

    accepted: list[PairAnswer] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)  # tasks without an accepted answer


def check_answers(
    answers: Iterable[Filed], form: str, tasks: Mapping[str, PairTask], problems: Mapping[str, str] | None = None
) -> CheckedAnswers:
    """The answers that keep the rules, and the others with the reason. Raises nothing for a bad answer.

    problems: task -> why no answer to it can be used (its pair is no longer in the shards, ..)."""
    single, refused = one_each(
        answers, PairAnswer, tasks, "the folder: give the folder of the export it belongs to",
        lambda answer: answer.verdict,
    )  # fmt: skip
    accepted = []
    for where, answer in single:
        try:
            if problem := (problems or {}).get(answer.task):
                raise ValueError(problem)
            check_answer(answer, form, tasks[answer.task])
            accepted.append(answer)
        except ValueError as error:
            refused.append(refused_answer(where, answer.to_json(), str(error)))
    answered = {answer.task for answer in accepted}
    return CheckedAnswers(accepted, refused, [task for task in tasks if task not in answered])


def check_answer(answer: PairAnswer, form: str, task: PairTask) -> None:
    """Raises ValueError, one sentence, for an answer that contradicts itself, its form or its task."""
    if _ADDRESS.fullmatch(answer.annotator):
        raise ValueError("the annotator is an e-mail address, which would stand in the data: give a pseudonym")
    if answer.time is not None:
        _check_time(answer.time)
    if answer.pictures is not None and answer.pictures != [task.source_sha256, task.target_sha256]:
        raise ValueError(
            f"it is about another picture pair than its task ({answer.pictures[0][:12]}, {answer.pictures[1][:12]}; "
            f"the task shows {task.source_sha256[:12]}, {task.target_sha256[:12]}): was it filed for another export?"
        )
    if answer.verdict == "corrected":
        _check_correction(answer, form, task)
        return
    given = [name for name in ("text", "tags", "severity", "spans") if getattr(answer, name)]
    if given == ["text"] and answer.text and same_tokens(answer.text, task.text):
        given = []  # a tool that sends the draft back
    if given:
        what = "a correction" if given[0] == "text" else given[0]
        raise ValueError(f"the verdict is {answer.verdict}, yet it holds {what}: choose corrected, or leave that out")
    if answer.verdict == "unusable" and not has_words(answer.remark):
        raise ValueError("the verdict is unusable without a remark: say why no instruction can be right")


def _check_correction(answer: PairAnswer, form: str, task: PairTask) -> None:
    text = answer.text or ""
    if not has_words(text):
        raise ValueError(f"the text is empty ({shown(text)}): write the instruction, or choose already_correct")
    try:
        EditPair.from_json({"id": "x", "category": "semantic", "edit_type": "x", "instruction": text}, where="text")
    except RecordError as error:
        raise ValueError(str(error).replace("field 'instruction'", "it")) from None
    if same_tokens(text, task.text):
        raise ValueError(
            "the edit changed nothing (case and blanks do not count), yet the verdict is corrected: choose "
            "already_correct, or correct it"
        )
    known = people_form(form).tags
    if not answer.tags:
        raise ValueError(f"it has no tag: say what was mended ({', '.join(known)})")
    if unknown := [tag for tag in answer.tags if tag not in known]:
        raise ValueError(f"tag {shown(unknown[0])} is none of the form's: {', '.join(known)}")
    _check_severity(answer, form)
    for span in answer.spans:
        _check_span(span, answer, task)


def _check_severity(answer: PairAnswer, form: str) -> None:
    known = people_form(form).severities
    levels = [answer.severity] if isinstance(answer.severity, str) else answer.severity or []
    if not known:
        if levels:
            raise ValueError(f"it has the severity {levels[0]}, which this form does not ask for: leave it out")
        return
    if not levels:
        raise ValueError(f"it has no severity: choose one of {', '.join(known)}")
    if unknown := [level for level in levels if level not in known]:
        raise ValueError(f"severity {shown(unknown[0])} is none of {', '.join(known)}")
    if len(levels) > 1:
        raise ValueError(f"H1: {' and '.join(levels)} are filed beside each other: one severity, the worst")


def _check_span(span: MarkedSpan, answer: PairAnswer, task: PairTask) -> None:
    where = f"the span {span.start} to {span.end}"
    if not span.start < span.end <= len(task.text):
        raise ValueError(f"{where} is not within the draft's {len(task.text)} characters")
    if span.text is not None and span.text != task.text[span.start : span.end]:
        found = shown(task.text[span.start : span.end])
        raise ValueError(f"{where} says {shown(span.text)}, and the draft has {found} there: is it of another text?")
    if span.tag not in answer.tags:
        raise ValueError(f"{where} is tagged {shown(span.tag)}, and the answer {', '.join(answer.tags)}: add the tag")
    if span.severity is not None and span.severity != answer.level:
        raise ValueError(
            f"H1: {where} is {span.severity} and filed beside {answer.level}: one severity, the worst, and only spans "
            "of that severity"
        )


def _check_time(time: str) -> None:
    try:
        datetime.fromisoformat(time)
    except ValueError:
        raise ValueError(f"time is {shown(time)}: expected ISO 8601, as 2026-01-31T12:00:00Z") from None


def by_task(answers: Sequence[PairAnswer]) -> dict[str, list[PairAnswer]]:
    """task -> its answers, annotators in the order of their names, so that no rule depends on the files' order."""
    together: dict[str, list[PairAnswer]] = {}
    for answer in sorted(answers, key=lambda answer: answer.annotator):
        together.setdefault(answer.task, []).append(answer)
    return together
