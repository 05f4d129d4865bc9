"""A Label Studio project, whatever its form: make it, bring tasks, list them, take the annotations home."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

from .label_studio_api import LabelStudio, LabelStudioError

_PAGE = 500  # tasks listed at once
_BATCH_TASKS, _BATCH_BYTES = 100, 32 << 20  # of one import; the server takes 250 MiB


@dataclass(frozen=True)
class Pushed:
    project: int
    new: int
    there: int  # tasks that an earlier push had brought


def open_project(server: LabelStudio, title: str, form: str, annotators: int = 1) -> int:
    """The project of that title, made if there is none -> its number. Raises LabelStudioError for one of another form
    or another number of annotators."""
    settings = {"title": title, "label_config": form, "maximum_annotations": annotators}
    found = find_project(server, title) or server.call("POST", "/api/projects/", settings)
    if found["label_config"].strip() != form.strip():
        raise LabelStudioError(f"project {title!r} has another form than this version's: choose another title")
    if found["maximum_annotations"] != annotators:
        raise LabelStudioError(
            f"project {title!r} wants {found['maximum_annotations']} annotators per task, not {annotators}: say so "
            "here, or change it in the project's settings"
        )
    return found["id"]


def import_tasks(server: LabelStudio, project: int, rows: Iterable[dict]) -> None:
    """rows: {"data": .., "meta": {"task": name}, ..} each."""
    for batch in _batches(rows):
        reply = server.call("POST", f"/api/projects/{project}/import", batch)
        if reply.get("task_count", len(batch)) != len(batch):
            raise LabelStudioError(
                f"of {len(batch)} tasks the server took {reply['task_count']}: push again to see which"
            )


def exported_tasks(server: LabelStudio, title: str) -> list[dict]:
    """Every task of the project with its annotations. Raises LabelStudioError without such a project."""
    project = find_project(server, title)
    if project is None:
        raise LabelStudioError(f"{server.url} has no project {title!r}: push the tasks first, or check the title")
    # Full JSON: the smaller export changes a field's type with the number of choices.
    path = f"/api/projects/{project['id']}/export"
    return server.call("GET", path, exportType="JSON", download_all_tasks="true")


def find_project(server: LabelStudio, title: str) -> dict | None:
    found = server.call("GET", "/api/projects/", title=title, page_size=1000)  # titles that contain it
    if not isinstance(found, dict) or "results" not in found:
        raise LabelStudioError(f"{server.url} does not answer as Label Studio does: is it one?")
    same = [project for project in found["results"] if project["title"] == title]
    if len(same) > 1:
        raise LabelStudioError(f"{server.url} has {len(same)} projects {title!r}: rename all but one")
    return same[0] if same else None


def tasks_there(server: LabelStudio, project: int) -> set[str]:
    """Names of the tasks that an earlier push has brought."""
    found, page, seen = set(), 1, 0
    while True:
        listed = server.call("GET", "/api/tasks/", project=project, page=page, page_size=_PAGE, include="id,meta")
        found |= {(task.get("meta") or {}).get("task") for task in listed["tasks"]}
        seen += len(listed["tasks"])
        if seen >= listed["total"] or not listed["tasks"]:
            return found
        page += 1


def _batches(rows: Iterable[dict]) -> Iterator[list[dict]]:
    batch, size = [], 0
    for row in rows:
        length = sum(len(str(value)) for value in row["data"].values())
        if batch and (size + length > _BATCH_BYTES or len(batch) == _BATCH_TASKS):
            yield batch
            batch, size = [], 0
        batch.append(row)
        size += length
    if batch:
        yield batch
