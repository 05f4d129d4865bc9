"""The annotators' form as a Label Studio project: push tasks, pull answers.

Plain HTTP with the standard library: seven calls need no SDK, whose version would have to follow the server's. What
comes back is checked by `human.import_answers`, for Label Studio takes contradictory answers."""

import base64
import urllib.parse
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from .human import Filed, Imported, import_answers
from .human_tasks import Key, checklist, read_tasks
from .label_studio_api import LabelStudio, LabelStudioError

_PAGE = 500  # tasks listed at once
_BATCH_TASKS, _BATCH_BYTES = 100, 32 << 20  # of one import; the server takes 250 MiB


def labelling_config() -> str:
    """The form: both pictures, the instruction as text, one severity, and the checklist's rows of that severity."""
    text = resources.files("editcaption_mega.evaluation").joinpath("label_studio.xml.j2").read_text("utf-8")
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(text).render(form=checklist())


@dataclass(frozen=True)
class Pushed:
    project: int
    new: int
    there: int  # tasks that an earlier push had brought


def push_tasks(
    server: LabelStudio,
    folder: str | Path,
    title: str,
    *,
    annotators: int = 1,
    document_root: str | Path | None = None,
    progress: Callable[..., Iterable] = lambda items, *_: items,
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
    settings = {"title": title, "label_config": labelling_config(), "maximum_annotations": annotators}
    found = _project(server, title) or server.call("POST", "/api/projects/", settings)
    if found["label_config"].strip() != settings["label_config"].strip():
        raise LabelStudioError(f"project {title!r} has another form than this version's: choose another title")
    if found["maximum_annotations"] != annotators:
        raise LabelStudioError(
            f"project {title!r} wants {found['maximum_annotations']} annotators per task, not {annotators}: say so "
            "here, or change it in the project's settings"
        )
    project = found["id"]
    if document_root is not None:
        _serve_files(server, project, folder)
    there = _tasks_there(server, project)
    waiting = [row for task, row in tasks.items() if task not in there]
    rows = ({"data": _data(row, folder, document_root), "meta": {"task": row["task"]}} for row in waiting)
    for batch in _batches(progress(rows, len(waiting), "tasks")):
        reply = server.call("POST", f"/api/projects/{project}/import", batch)
        if reply.get("task_count", len(batch)) != len(batch):
            raise LabelStudioError(
                f"of {len(batch)} tasks the server took {reply['task_count']}: push again to see which"
            )
    return Pushed(project, len(waiting), len(tasks) - len(waiting))


def pull_answers(server: LabelStudio, title: str) -> list[Filed]:
    """Every annotation of the project as an answer for `human.import_answers`, the annotator as "user-<id>". Skipped
    ones, and those that are not of this form, come with the reason. Raises LabelStudioError without such a project."""
    project = _project(server, title)
    if project is None:
        raise LabelStudioError(f"{server.url} has no project {title!r}: push the tasks first, or check the title")
    # Full JSON: the smaller export changes a field's type with the number of choices.
    path = f"/api/projects/{project['id']}/export"
    tasks = server.call("GET", path, exportType="JSON", download_all_tasks="true")
    return [_answer(task, annotation) for task in tasks for annotation in task["annotations"]]


def pull_verdicts(server: LabelStudio, title: str, key: Key) -> Imported:
    return import_answers(pull_answers(server, title), key)


def _project(server: LabelStudio, title: str) -> dict | None:
    found = server.call("GET", "/api/projects/", title=title, page_size=1000)  # titles that contain it
    if not isinstance(found, dict) or "results" not in found:
        raise LabelStudioError(f"{server.url} does not answer as Label Studio does: is it one?")
    same = [project for project in found["results"] if project["title"] == title]
    if len(same) > 1:
        raise LabelStudioError(f"{server.url} has {len(same)} projects {title!r}: rename all but one")
    return same[0] if same else None


def _serve_files(server: LabelStudio, project: int, folder: Path) -> None:
    storages = server.call("GET", "/api/storages/localfiles", project=project)
    if str(folder) not in [storage["path"] for storage in storages]:
        storage = {"project": project, "title": folder.name, "path": str(folder), "use_blob_urls": True}
        server.call("POST", "/api/storages/localfiles", storage)


def _tasks_there(server: LabelStudio, project: int) -> set[str]:
    found, page, seen = set(), 1, 0
    while True:
        listed = server.call("GET", "/api/tasks/", project=project, page=page, page_size=_PAGE, include="id,meta")
        found |= {(task.get("meta") or {}).get("task") for task in listed["tasks"]}
        seen += len(listed["tasks"])
        if seen >= listed["total"] or not listed["tasks"]:
            return found
        page += 1


def _data(row: dict, folder: Path, document_root: Path | None) -> dict[str, str]:
    urls = {}  # under names of our own: Label Studio's form reads "$source" as the whole task
    for which, name in (("source", "picture_1"), ("target", "picture_2")):
        path = folder / row[which]
        if document_root is not None:
            relative = path.relative_to(document_root).as_posix()
            urls[name] = f"/data/local-files/?d={urllib.parse.quote(relative)}"
        else:
            kind = {".png": "png", ".webp": "webp"}.get(path.suffix, "jpeg")
            urls[name] = f"data:image/{kind};base64,{base64.b64encode(path.read_bytes()).decode()}"
    return {"task": row["task"], **urls, "instruction": row["instruction"]}


def _batches(rows: Iterable[dict]) -> Iterator[list[dict]]:
    batch, size = [], 0
    for row in rows:
        length = sum(len(value) for value in row["data"].values())
        if batch and (size + length > _BATCH_BYTES or len(batch) == _BATCH_TASKS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch


def _answer(task: dict, annotation: dict) -> Filed:
    who = annotation.get("completed_by")
    who = who.get("id") if isinstance(who, dict) else who
    row: dict[str, Any] = {"task": task["data"].get("task"), "annotator": f"user-{who}"}
    where = f"annotation {annotation['id']} (task {task['id']} of Label Studio)"
    if annotation.get("was_cancelled"):
        return Filed(where, row, "skipped by the annotator")
    try:
        return Filed(where, row | _fields(annotation))
    except (KeyError, TypeError, AttributeError) as error:
        return Filed(where, row, f"not a result of this form ({type(error).__name__}: {error})")
    except ValueError as error:
        return Filed(where, row, str(error))


def _fields(annotation: dict) -> dict[str, Any]:
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
