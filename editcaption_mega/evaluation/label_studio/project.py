"""A Label Studio project, whatever its form: make it, bring tasks, list them, take the annotations home.

Nothing that a server sends is believed before its type is checked."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from .api import LabelStudio, LabelStudioError, TooLargeError

_PAGE = 500  # tasks listed at once
_MOST_PAGES = 2_000
_EXPORTED = 50  # tasks exported at once: their pictures may be inside
_BATCH_TASKS, _BATCH_BYTES = 100, 32 << 20  # of one import; the server takes 250 MiB


@dataclass(frozen=True)
class Pushed:
    project: int
    new: int
    existing: int  # tasks that an earlier push had brought


def open_project(server: LabelStudio, title: str, form: str, annotators: int = 1) -> int:
    """The project of that title, made if there is none -> its number. Raises LabelStudioError for one of another form
    or another number of annotators."""
    settings = {"title": title, "label_config": form, "maximum_annotations": annotators}
    project = find_project(server, title) or server.call("POST", "/api/projects/", settings)
    if server.field(project, "label_config", str).strip() != form.strip():
        raise LabelStudioError(f"project {title!r} has another form than this version's: choose another title")
    wanted = server.field(project, "maximum_annotations", int)
    if wanted != annotators:
        raise LabelStudioError(
            f"project {title!r} wants {wanted} annotators per task, not {annotators}: say so "
            "here, or change it in the project's settings"
        )
    return server.field(project, "id", int)


def import_tasks(server: LabelStudio, project: int, rows: Iterable[dict[str, Any]]) -> None:
    """rows: {"data": .., "meta": {"task": name}, ..} each."""
    for batch in _batches(rows):
        reply = server.call("POST", f"/api/projects/{project}/import", batch)
        if isinstance(reply, dict) and "import" in reply and "task_count" not in reply:
            continue  # a server that imports later tells no number
        taken = server.field(reply, "task_count", int)
        if taken != len(batch):
            raise LabelStudioError(f"of {len(batch)} tasks the server took {taken}: push again to see which")


def exported_tasks(server: LabelStudio, title: str) -> list[dict[str, Any]]:
    """Every task of the project with its annotations: {"id": int, "data": {..}, "annotations": [{"id": int, ..}, ..],
    ..}. Raises LabelStudioError without such a project."""
    project = find_project(server, title)
    if project is None:
        raise LabelStudioError(f"{server.url} has no project {title!r}: push the tasks first, or check the title")
    number = server.field(project, "id", int)
    ids = [server.field(task, "id", int) for task in _listed(server, number)]
    tasks = []
    for begin in range(0, len(ids), _EXPORTED):
        tasks += _exported(server, number, ids[begin : begin + _EXPORTED])
    for task in tasks:
        server.field(task, "id", int)
        server.field(task, "data", dict)
        for annotation in server.objects(task.get("annotations"), "annotations"):
            server.field(annotation, "id", int)
    return tasks


def _exported(server: LabelStudio, project: int, ids: Sequence[int]) -> list[dict[str, Any]]:
    # Full JSON: the smaller export changes a field's type with the number of choices.
    query = {"exportType": "JSON", "download_all_tasks": "true", "ids[]": ids}
    try:
        tasks = server.objects(server.call("GET", f"/api/projects/{project}/export", **query), "exported tasks")
    except TooLargeError:
        if len(ids) == 1:
            raise
        half = len(ids) // 2
        return _exported(server, project, ids[:half]) + _exported(server, project, ids[half:])
    if sorted(str(task.get("id")) for task in tasks) != sorted(map(str, ids)):
        raise server.odd(f"{len(tasks)} tasks exported where {len(ids)} others were asked for")
    return tasks


def find_project(server: LabelStudio, title: str) -> dict[str, Any] | None:
    listed = server.call("GET", "/api/projects/", title=title, page_size=1000)  # titles that contain it
    projects = server.objects(server.field(listed, "results", list), "projects")
    same = [project for project in projects if project.get("title") == title]
    if len(same) > 1:
        raise LabelStudioError(f"{server.url} has {len(same)} projects {title!r}: rename all but one")
    return same[0] if same else None


def tasks_there(server: LabelStudio, project: int) -> set[str]:
    """Names of the tasks that an earlier push has brought."""
    meta = [task.get("meta") for task in _listed(server, project)]
    names = [each.get("task") for each in meta if isinstance(each, dict)]
    return {name for name in names if isinstance(name, str)}


def _listed(server: LabelStudio, project: int) -> list[dict[str, Any]]:
    """id and meta of every task, page by page."""
    tasks: dict[int, dict[str, Any]] = {}
    for page in range(1, _MOST_PAGES + 1):
        query = {"project": project, "page": page, "page_size": _PAGE, "include": "id,meta"}
        listed = server.call("GET", "/api/tasks/", **query)
        total, shown = server.field(listed, "total", int), server.field(listed, "tasks", list)
        before = len(tasks)
        tasks |= {server.field(task, "id", int): task for task in server.objects(shown, "tasks")}
        if len(tasks) >= total or not shown:
            return list(tasks.values())
        if len(tasks) == before:
            break
    raise server.odd(f"the pages of its {total} tasks do not end")


def _batches(rows: Iterable[dict[str, Any]]) -> Iterator[list[dict[str, Any]]]:
    batch: list[dict[str, Any]] = []
    size = 0
    for row in rows:
        length = sum(len(str(value)) for value in row["data"].values())
        if batch and (size + length > _BATCH_BYTES or len(batch) == _BATCH_TASKS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch
