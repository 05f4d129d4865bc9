"""The two forms as Label Studio projects: tasks pushed with the draft in the form, answers pulled."""

from importlib import resources
from pathlib import Path
from typing import Any

from editcaption_mega.evaluation.human.filed_answers import Filed
from editcaption_mega.evaluation.label_studio.api import LabelStudio
from editcaption_mega.evaluation.label_studio.picture_tasks import (
    PictureTask,
    ProjectForm,
    pull_filed,
    push_picture_tasks,
    rendered_form,
    text_of,
)
from editcaption_mega.evaluation.label_studio.project import Pushed
from editcaption_mega.progress import Progress, no_progress

from .questions import people_form
from .task_records import PairTask, read_pair_tasks

_NO_HINTS = "-"  # Label Studio refuses a task whose form shows an empty text


def pair_form(form: str) -> str:
    """Label Studio's form: both pictures, the draft (spans are marked in it), hints, the text to edit, the verdict,
    and, where something was corrected, tags and severity."""
    template = resources.files("editcaption_mega.curation.people").joinpath("templates/label_studio.xml.j2")
    return rendered_form(template, people_form(form))


def push_pair_tasks(
    server: LabelStudio,
    folder: str | Path,
    title: str,
    *,
    annotators: int = 1,
    document_root: str | Path | None = None,
    progress: Progress = no_progress,
) -> Pushed:
    """The folder's tasks as the project of that title, in their order, so that the doubtful ones come first. The rest
    as `push_picture_tasks`. annotators: answers wanted per task; where they overlap, their agreement is measured."""
    form, tasks = read_pair_tasks(folder)
    rows = [_picture_task(task) for task in tasks.values()]
    project = ProjectForm(title, pair_form(form), annotators)
    return push_picture_tasks(server, Path(folder), project, rows, document_root=document_root, progress=progress)


def pull_pair_answers(server: LabelStudio, title: str) -> list[Filed]:
    """Every annotation of the project as an answer, which `check_answers` judges. Raises LabelStudioError."""
    return pull_filed(server, title, _fields)


def _picture_task(task: PairTask) -> PictureTask:
    start = [{"from_name": "text", "to_name": "draft", "type": "textarea", "value": {"text": [task.text]}}]
    texts = {
        "pair": task.pair,
        "draft": task.text,
        "hints": "; ".join(task.hints) or _NO_HINTS,
        "pictures": f"{task.source_sha256} {task.target_sha256}",
    }
    return PictureTask(task.task, task.source, task.target, texts, start)


def _fields(annotation: dict[str, Any], data: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {"pictures": str(data["pictures"]).split()}
    texts: list[str] = []
    verdicts: list[str] = []
    first: list[str] = []
    others: list[str] = []
    severities: list[str] = []
    spans: list[dict[str, Any]] = []
    choices = {"verdict": verdicts, "primary": first, "tags": others, "severity": severities}
    for part in annotation["result"]:
        name, value = part.get("from_name"), part.get("value", {})
        if name in choices:
            choices[name] += value["choices"]
        elif name == "text":
            texts.append(text_of(value))
        elif name == "spans":
            spans += [_span(value, tag, data["draft"]) for tag in value["labels"]]
        elif name == "remark":
            row["remark"] = text_of(value)
        else:
            raise ValueError(f"field {name!r} is not part of the form: was the project's form changed?")
    if len(verdicts) != 1:
        said = ", ".join(verdicts) or "none"
        raise ValueError(f"H1: one verdict per pair, found {len(verdicts)} ({said})")
    if len(first) > 1:
        raise ValueError(f"one tag is the primary one, found {len(first)} ({', '.join(first)})")
    if seconds := annotation.get("lead_time"):
        row["seconds"] = float(seconds)
    if time := annotation.get("updated_at") or annotation.get("created_at"):
        row["time"] = str(time)
    tags = first + [tag for tag in others if tag not in first]
    text = {"text": "\n".join(texts)} if texts else {}
    return row | text | {"verdict": verdicts[0], "tags": tags, "spans": spans, "severity": severities or None}


def _span(value: dict[str, Any], tag: str, draft: str) -> dict[str, Any]:
    """Label Studio counts in the 16-bit units of JavaScript's texts, we in characters."""
    units = draft.encode("utf-16-le")

    def characters(offset: int) -> int:
        return len(units[: 2 * offset].decode("utf-16-le", "replace"))

    return {"start": characters(int(value["start"])), "end": characters(int(value["end"])), "tag": tag}
