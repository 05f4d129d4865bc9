"""What annotators file, whatever the form: read line by line, at most one answer of each annotator to a task, and every
answer either accepted or refused in a sentence."""

from collections.abc import Callable, Container, Iterable
from pathlib import Path
from typing import Any, NamedTuple

from editcaption_mega.files import parse_json
from editcaption_mega.records.evaluation import EvaluationRecord
from editcaption_mega.records.record import Text


class FiledAnswer(EvaluationRecord):
    """What every form's answer says: to which task, and by whom."""

    task: Text
    annotator: Text


class Filed(NamedTuple):
    """An answer as it came: where from, and the object, or the reason why there is none that can be read."""

    where: str
    row: Any = None
    reason: str | None = None


class Refused(NamedTuple):
    """An answer that was not accepted, and why, in one sentence."""

    where: str
    task: str | None
    annotator: str | None
    reason: str

    def to_json(self) -> dict[str, Any]:
        return self._asdict()


def read_answers(path: str | Path) -> list[Filed]:
    """The answers of a JSONL file; a line that is not JSON is one with a reason. Blank lines are skipped."""
    found = []
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            where = f"{Path(path).name} line {number}"
            if line.strip():
                try:
                    found.append(Filed(where, parse_json(line)))
                except ValueError as error:
                    found.append(Filed(where, reason=str(error)))
    return found


def one_each[A: FiledAnswer](
    answers: Iterable[Filed], kind: type[A], tasks: Container[str], unknown_task: str, word: Callable[[A], str]
) -> tuple[list[tuple[str, A]], list[Refused]]:
    """(where, answer) of what can be read as `kind` and is of `tasks`, one per annotator and task; and the others.

    An annotator's second answer to a task is refused when it says the same; when it says something else both are, for
    nobody but the annotator can tell which one is meant (H1). unknown_task: the mend for a task that is none of them.
    word: what an answer says, in a word. Raises nothing for a bad answer."""
    refused: list[Refused] = []
    filed: dict[tuple[str, str], list[tuple[str, A]]] = {}
    for where, row, reason in answers:
        try:
            if reason is not None:
                raise ValueError(reason)
            unknown = [name for name in row if name not in kind.model_fields] if isinstance(row, dict) else []
            if unknown:
                known = ", ".join(kind.model_fields)
                raise ValueError(f"field {unknown[0]!r} is none of an answer's: {known} (a note is its 'remark')")
            answer = kind.from_json(row, where="answer")
            if answer.task not in tasks:
                raise ValueError(f"task {answer.task!r} is not in {unknown_task}")
        except ValueError as error:
            refused.append(refused_answer(where, row, str(error).removeprefix("answer: ")))
            continue
        filed.setdefault((answer.task, answer.annotator), []).append((where, answer))

    single: list[tuple[str, A]] = []
    for same in filed.values():
        (first, answer), *others = same
        if any(other != answer for _, other in others):
            said = ", ".join(f"{word(other)} ({where})" for where, other in same)
            reason = f"H1: one verdict per pair, but this annotator filed {len(same)} that differ: {said}; keep one"
            refused += [refused_answer(where, other.to_json(), reason) for where, other in same]
            continue
        refused += [refused_answer(where, other.to_json(), f"the same as {first}") for where, other in others]
        single.append((first, answer))
    return single, refused


def refused_answer(where: str, row: Any, reason: str) -> Refused:
    task, annotator = (row.get(name) if isinstance(row, dict) else None for name in ("task", "annotator"))
    return Refused(where, None if task is None else str(task), None if annotator is None else str(annotator), reason)
