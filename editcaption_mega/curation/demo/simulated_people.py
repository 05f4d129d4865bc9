"""Annotators who know the truth of a pair and err at a stated rate: what they answer to a task.

An annotator who errs overlooks a mistake, turns a direction of the correction the wrong way, "corrects" what was right,
or gives up. The same annotator answers the same task alike, whatever was asked before."""

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from editcaption_mega.curation.people.questions import people_form
from editcaption_mega.curation.people.same_text import same_tokens
from editcaption_mega.curation.people.task_records import PairTask
from editcaption_mega.curation.scores.directions import opposite
from editcaption_mega.records import EditPair

from .known_truth import verdict_of

_OBJECTIVES = {"orientation": "spatial", "viewpoint": "spatial", "detail": "detail"}  # refine's word of a failure mode
_SECONDS = (8.0, 40.0)  # of a task


@dataclass(frozen=True)
class SimulatedAnnotator:
    """number: from 1. error_rate: the share of tasks in which this annotator errs."""

    number: int
    error_rate: float
    truth: Mapping[str, EditPair]
    seed: int = 0

    def answer(self, form: str, task: PairTask) -> dict[str, Any]:
        """The fields of an answer (`people.pair_answers`) but who gives it."""
        draws = random.Random(f"{self.seed}/{self.number}/{task.task}")
        errs = draws.random() < self.error_rate
        said = self._wrong(form, task, draws) if errs else self._right(form, task)
        return {"task": task.task, **said, "seconds": round(draws.uniform(*_SECONDS), 1)}

    def _right(self, form: str, task: PairTask) -> dict[str, Any]:
        truth = self.truth[task.pair]
        if verdict_of(task.text, truth).correct:
            return {"verdict": "already_correct"}
        if truth.instruction is None or same_tokens(truth.instruction, task.text):
            return {"verdict": "unusable", "remark": "Nobody knows an instruction that is right."}
        return self._corrected(form, task, truth.instruction)

    def _wrong(self, form: str, task: PairTask, draws: random.Random) -> dict[str, Any]:
        truth = self.truth[task.pair]
        if verdict_of(task.text, truth).correct:
            turned = opposite(task.text)
            if turned is None or same_tokens(turned, task.text):
                return {"verdict": "unusable", "remark": "I cannot see what changed."}
            return self._corrected(form, task, turned, ("orientation",))
        turned = opposite(truth.instruction or "")
        if draws.random() < 0.5 and turned and not same_tokens(turned, task.text):
            return self._corrected(form, task, turned)
        return {"verdict": "already_correct"}

    def _corrected(self, form: str, task: PairTask, text: str, modes: tuple[str, ...] = ()) -> dict[str, Any]:
        verdict = verdict_of(task.text, self.truth[task.pair])
        modes = modes or verdict.failure_modes or ("detail",)
        if form == "refine":
            return {"verdict": "corrected", "text": text, "tags": list(dict.fromkeys(_OBJECTIVES[m] for m in modes))}
        severities = list(people_form(form).severities)  # the worst first
        level = severities[0 if verdict.severity >= 1 else 1 if verdict.severity >= 0.5 else 2]
        return {"verdict": "corrected", "text": text, "tags": list(modes), "severity": level}
