"""Where simulated annotators file their answers: a JSONL file, or a Label Studio project."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from editcaption_mega.curation.people.people_projects import pull_pair_answers
from editcaption_mega.curation.people.task_records import PairTask, read_pair_tasks
from editcaption_mega.evaluation.label_studio.api import LabelStudio
from editcaption_mega.evaluation.label_studio.project import exported_tasks
from editcaption_mega.files import write_atomically
from editcaption_mega.progress import Progress, no_progress

from .simulated_people import SimulatedAnnotator


def file_as_jsonl(folder: Path, annotators: Sequence[SimulatedAnnotator], output: Path) -> int:
    """Every annotator's answer to every task of the folder -> how many lines."""
    form, tasks = read_pair_tasks(folder)
    rows = [
        annotator.answer(form, task) | {"annotator": f"annotator-{annotator.number}"}
        for annotator in annotators
        for task in tasks.values()
    ]
    write_atomically(output, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    return len(rows)


def file_in_label_studio(
    server: LabelStudio,
    title: str,
    folder: Path,
    annotators: Sequence[SimulatedAnnotator],
    progress: Progress = no_progress,
) -> int:
    """The same as annotations of the project, each by a user of its own; what is filed already is not filed again."""
    form, tasks = read_pair_tasks(folder)
    users = {annotator.number: _user(server, annotator.number) for annotator in annotators}
    numbers = {task["data"]["task"]: task["id"] for task in exported_tasks(server, title)}
    filed = {(answer.row["task"], answer.row["annotator"]) for answer in pull_pair_answers(server, title)}
    waiting = [
        (annotator, name)
        for annotator in annotators
        for name in tasks
        if (name, f"user-{users[annotator.number]}") not in filed
    ]
    for annotator, name in progress(waiting, len(waiting), "annotations"):
        answer = annotator.answer(form, tasks[name])
        body = annotation_of(answer, tasks[name]) | {"completed_by": users[annotator.number]}
        server.call("POST", f"/api/tasks/{numbers[name]}/annotations/", body)
    return len(waiting)


def annotation_of(answer: dict[str, Any], task: PairTask) -> dict[str, Any]:
    """An answer as the project's form files it."""
    results = [_area("text", answer.get("text", task.text)), _choices("verdict", [answer["verdict"]])]
    tags, severity = answer.get("tags", []), answer.get("severity")
    for name, values in (("primary", tags[:1]), ("tags", tags[1:]), ("severity", [severity] if severity else [])):
        if values:
            results.append(_choices(name, values))
    if remark := answer.get("remark"):
        results.append(_area("remark", remark))
    return {"result": results, "lead_time": answer["seconds"]}


def _choices(name: str, values: Sequence[str]) -> dict[str, Any]:
    return {"from_name": name, "to_name": "draft", "type": "choices", "value": {"choices": list(values)}}


def _area(name: str, text: str) -> dict[str, Any]:
    return {"from_name": name, "to_name": "draft", "type": "textarea", "value": {"text": [text]}}


def _user(server: LabelStudio, number: int) -> int:
    """The number that Label Studio gives the annotator; made if there is none."""
    name = f"annotator-{number}"
    address = f"{name}@example.com"
    users = server.objects(server.call("GET", "/api/users/"), "users")
    there = next((user for user in users if user.get("email") == address), None)
    made = there or server.call("POST", "/api/users/", {"email": address, "username": name, "first_name": name})
    return server.field(made, "id", int)
