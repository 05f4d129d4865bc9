"""The annotators' form as a Label Studio project: push tasks, pull answers.

Plain HTTP: seven calls need no SDK, whose version would have to follow the server's. What
comes back is checked by `human.import_answers`, for Label Studio takes contradictory answers."""

import urllib.parse
from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from editcaption_mega.evaluation.human.tasks import Key, checklist, read_tasks
from editcaption_mega.evaluation.human.verdicts import Filed, Imported, import_answers
from editcaption_mega.inference.endpoint.messages import Picture
from editcaption_mega.inference.endpoint.openai_protocol import data_url
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.words import one_line

from .api import LabelStudio
from .project import Pushed, exported_tasks, import_tasks, open_project, tasks_there


def label_config() -> str:
    """The form: both pictures, the instruction as text, one severity, and the checklist's rows of that severity."""
    text = (
        resources.files("editcaption_mega.evaluation.label_studio").joinpath("forms/verdict.xml.j2").read_text("utf-8")
    )
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(text).render(form=checklist())


def push_tasks(
    server: LabelStudio,
    folder: str | Path,
    title: str,
    *,
    annotators: int = 1,
    document_root: str | Path | None = None,
    progress: Progress = no_progress,
) -> Pushed:
    """The tasks of an export (`human_tasks.export_tasks`) as the project of that title, which is made if there is none.
    A task that is there already is not pushed again, so a push that was cut off is simply repeated.

    annotators: verdicts wanted per task. document_root: the server's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, which the
    folder lies in; without it the pictures travel inside the tasks. Raises ValueError before any work for a folder
    outside that root, and LabelStudioError for a project of that title with another form."""
    folder = Path(folder).resolve()
    tasks = read_tasks(folder)
    if annotators < 1:
        raise ValueError(f"annotators={annotators} must be at least 1")
    if document_root is not None:
        document_root = Path(document_root).resolve()
        if document_root not in folder.parents:
            raise ValueError(f"{folder} must lie in a folder of {document_root}, which Label Studio serves files from")
    project = open_project(server, title, label_config(), annotators)
    if document_root is not None:
        _serve_files(server, project, folder)
    there = tasks_there(server, project)
    waiting = [row for task, row in tasks.items() if task not in there]
    rows = ({"data": _data(row, folder, document_root), "meta": {"task": row["task"]}} for row in waiting)
    import_tasks(server, project, progress(rows, len(waiting), "tasks"))
    return Pushed(project, len(waiting), len(tasks) - len(waiting))


def pull_answers(server: LabelStudio, title: str) -> list[Filed]:
    """Every annotation of the project as an answer for `human.import_answers`, the annotator as "user-<id>". Skipped
    ones, and those that are not of this form, come with the reason. Raises LabelStudioError without such a project."""
    tasks = exported_tasks(server, title)
    return [_answer(task, annotation) for task in tasks for annotation in task["annotations"]]


def pull_verdicts(server: LabelStudio, title: str, key: Key) -> Imported:
    return import_answers(pull_answers(server, title), key)


def _serve_files(server: LabelStudio, project: int, folder: Path) -> None:
    storages = server.call("GET", "/api/storages/localfiles", project=project)
    if str(folder) not in [storage.get("path") for storage in server.objects(storages, "storages")]:
        storage = {"project": project, "title": folder.name, "path": str(folder), "use_blob_urls": True}
        server.call("POST", "/api/storages/localfiles", storage)


def _data(row: dict[str, Any], folder: Path, document_root: Path | None) -> dict[str, str]:
    urls = {}  # under names of our own: Label Studio's form reads "$source" as the whole task
    for which, name in (("source", "picture_1"), ("target", "picture_2")):
        path = folder / row[which]
        if document_root is not None:
            relative = path.relative_to(document_root).as_posix()
            urls[name] = f"/data/local-files/?d={urllib.parse.quote(relative)}"
        else:
            urls[name] = data_url(Picture(path.read_bytes()))
    return {"task": row["task"], **urls, "instruction": row["instruction"]}


def _answer(task: dict[str, Any], annotation: dict[str, Any]) -> Filed:
    row: dict[str, Any] = {"task": task["data"].get("task"), "annotator": annotator(annotation)}
    where = f"annotation {annotation['id']} (task {task['id']} of Label Studio)"
    if annotation.get("was_cancelled"):
        return Filed(where, row, "skipped by the annotator")
    try:
        return Filed(where, row | _fields(annotation))
    except (KeyError, TypeError, AttributeError) as error:
        return Filed(where, row, one_line(f"not a result of this form ({type(error).__name__}: {error})"))
    except ValueError as error:
        return Filed(where, row, one_line(str(error)))


def annotator(annotation: dict[str, Any]) -> str:
    """Who filed it, as "user-<id>"."""
    who = annotation.get("completed_by")
    who = who.get("id") if isinstance(who, dict) else who
    return f"user-{one_line(str(who), 100) if isinstance(who, int | str) else None}"


def _fields(annotation: dict[str, Any]) -> dict[str, Any]:
    row: dict[str, Any] = {}
    severities, rows, boxes = [], [], []
    for field in annotation["result"]:
        name, value = field.get("from_name"), field.get("value", {})
        if name == "severity":
            severities += value["choices"]
        elif name in ("P0", "P1", "P2"):
            rows += value["choices"]
        elif name == "off_subject":
            row["off_subject"] = True
        elif name == "region":
            boxes.append(value)
        elif name == "remark":
            row["remark"] = " ".join(value["text"]) if isinstance(value["text"], list) else value["text"]
        else:
            raise ValueError(f"field {name!r} is not part of the form: was the project's form changed?")
    if len(severities) != 1:
        said = ", ".join(severities) or "none"
        raise ValueError(f"H1: one verdict per pair, found {len(severities)} ({said})")
    if boxes:
        row["region_share"] = region_share(boxes)
    return row | {"severity": severities[0], "rows": rows}


def region_share(boxes: Iterable[Mapping[str, float]]) -> float:
    """Share of the picture, 0 .. 1, that boxes cover together: {"x", "y", "width", "height"} in percent of its sides.
    What lies outside the picture does not count; rotation is not taken into account."""
    sides = []
    for box in boxes:
        x, y = box["x"], box["y"]
        sides.append([min(max(v, 0.0), 100.0) for v in (x, y, x + box["width"], y + box["height"])])
    covered = 0.0
    for left, right in pairwise(sorted({side for box in sides for side in (box[0], box[2])})):
        spans = sorted((box[1], box[3]) for box in sides if box[0] <= left and box[2] >= right)
        reached = 0.0
        for top, bottom in spans:
            covered += (right - left) * max(0.0, bottom - max(top, reached))
            reached = max(reached, bottom)
    return covered / 10_000
