"""What a folder of tasks holds, and how it is read."""

import json
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

from pydantic import Field

from editcaption_mega.evaluation.human.task_folder import FORM_FILE, TASKS_FILE, read_task_rows
from editcaption_mega.files import read_json_object
from editcaption_mega.records.evaluation import EvaluationRecord
from editcaption_mega.records.record import JsonObject

ORIGINS_FILE = "origins.jsonl"
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]


class PairTask(EvaluationRecord):
    """What a person sees: two pictures (paths within the folder), a text, and what was noticed about it."""

    task: str
    pair: str
    source: str
    target: str
    source_sha256: Sha256
    target_sha256: Sha256
    text: str
    hints: list[str] = []


class TaskOrigin(EvaluationRecord):
    """Where a task's text comes from, and why it stands where it stands."""

    task: str
    draft: JsonObject
    doubt: float
    screens: JsonObject


def read_pair_tasks(folder: str | Path) -> tuple[str, dict[str, PairTask]]:
    """(form, task -> what it shows) in the order of the file. Raises ValueError, with the line, for what is none."""
    folder = Path(folder)
    if not (folder / TASKS_FILE).is_file():
        raise ValueError(f"{folder} holds no {TASKS_FILE}: give the folder that an export has written")
    form = read_json_object(folder / FORM_FILE).get("form")
    if not isinstance(form, str):
        raise ValueError(f"{folder / FORM_FILE} names no form: give the folder that an export has written")
    rows = read_task_rows(folder, PairTask.model_fields)
    return form, {name: PairTask.from_json(row, where=f"{folder / TASKS_FILE}, {name}") for name, row in rows.items()}


def read_origins(folder: str | Path) -> dict[str, TaskOrigin]:
    """task -> where its text comes from. Raises ValueError, with the file, for what is none."""
    path = Path(folder) / ORIGINS_FILE
    with open(path, encoding="utf-8") as file:
        rows = [TaskOrigin.from_json(json.loads(line), where=f"{path}, line {n}") for n, line in enumerate(file, 1)]
    return {row.task: row for row in rows}


def exported_pairs(folders: Iterable[str | Path]) -> frozenset[str]:
    """Ids of the pairs that these folders of tasks have."""
    return frozenset(task.pair for folder in folders for task in read_pair_tasks(folder)[1].values())
