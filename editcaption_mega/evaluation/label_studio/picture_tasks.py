"""Tasks of two pictures and a text as a Label Studio project, whatever the form asks: push tasks, pull answers.

Plain HTTP: seven calls need no SDK, whose version would have to follow the server's. Label Studio takes contradictory
answers, so whoever pulls them checks them."""

import urllib.parse
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from importlib.resources.abc import Traversable
from pathlib import Path
from typing import Any

from jinja2 import Environment, StrictUndefined

from editcaption_mega.evaluation.human.filed_answers import Filed
from editcaption_mega.inference.endpoint.messages import Picture
from editcaption_mega.inference.endpoint.openai_protocol import data_url
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.words import one_line

from .api import LabelStudio
from .project import Pushed, exported_tasks, import_tasks, open_project, tasks_there


@dataclass(frozen=True)
class ProjectForm:
    """A project by its title: the form that annotators fill in, and how many of them are wanted per task."""

    title: str
    label_config: str
    annotators: int = 1


@dataclass(frozen=True)
class PictureTask:
    """A task's name, its pictures (paths within the folder of tasks), the texts that its form shows by their names, and
    what the form holds to begin with (results, as in an annotation)."""

    task: str
    source: str
    target: str
    texts: dict[str, str]
    start: list[dict[str, Any]] = field(default_factory=list)


def rendered_form(template: Traversable, form: Any) -> str:
    """A form in Label Studio's XML from its template. form: what the template calls so; its texts are escaped."""
    environment = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True, undefined=StrictUndefined)
    return environment.from_string(template.read_text("utf-8")).render(form=form)


def push_picture_tasks(
    server: LabelStudio,
    folder: Path,
    project_form: ProjectForm,
    tasks: Sequence[PictureTask],
    *,
    document_root: str | Path | None = None,
    progress: Progress = no_progress,
) -> Pushed:
    """The tasks as the project of that title, which is made if there is none. A task that is there already is not
    pushed again, so a push that was cut off is simply repeated.

    folder: where the tasks' pictures lie. document_root: the server's LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT, which the
    folder lies in; without it the pictures travel inside the tasks. Raises ValueError before any work for a folder
    outside that root, and LabelStudioError for a project of that title with another form."""
    if project_form.annotators < 1:
        raise ValueError(f"annotators={project_form.annotators} must be at least 1")
    folder = folder.resolve()
    if document_root is not None:
        document_root = Path(document_root).resolve()
        if document_root not in folder.parents:
            raise ValueError(f"{folder} must lie in a folder of {document_root}, which Label Studio serves files from")
    project = open_project(server, project_form.title, project_form.label_config, project_form.annotators)
    if document_root is not None:
        _serve_files(server, project, folder)
    there = tasks_there(server, project)
    waiting = [task for task in tasks if task.task not in there]
    rows = (_row(task, folder, document_root) for task in waiting)
    import_tasks(server, project, progress(rows, len(waiting), "tasks"))
    return Pushed(project, len(waiting), len(tasks) - len(waiting))


def pull_filed(
    server: LabelStudio, title: str, fields: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]]
) -> list[Filed]:
    """Every annotation of the project as an answer, the annotator as "user-<id>". Skipped ones, and those that are not
    of this form, come with the reason.

    fields: (annotation, the task's data) -> the answer's fields; ValueError for a result that is not of the form.
    Raises LabelStudioError without such a project."""
    tasks = exported_tasks(server, title)
    return [_answer(task, annotation, fields) for task in tasks for annotation in task["annotations"]]


def _serve_files(server: LabelStudio, project: int, folder: Path) -> None:
    storages = server.call("GET", "/api/storages/localfiles", project=project)
    if str(folder) not in [storage.get("path") for storage in server.objects(storages, "storages")]:
        storage = {"project": project, "title": folder.name, "path": str(folder), "use_blob_urls": True}
        server.call("POST", "/api/storages/localfiles", storage)


def _row(task: PictureTask, folder: Path, document_root: Path | None) -> dict[str, Any]:
    urls = {}  # under names of our own: Label Studio's form reads "$source" as the whole task
    for name, file in (("picture_1", task.source), ("picture_2", task.target)):
        path = folder / file
        if document_root is not None:
            relative = path.relative_to(document_root).as_posix()
            urls[name] = f"/data/local-files/?d={urllib.parse.quote(relative)}"
        else:
            urls[name] = data_url(Picture(path.read_bytes()))
    row: dict[str, Any] = {"data": {"task": task.task, **urls, **task.texts}, "meta": {"task": task.task}}
    return row | ({"predictions": [{"model_version": "draft", "result": task.start}]} if task.start else {})


def _answer(
    task: dict[str, Any],
    annotation: dict[str, Any],
    fields: Callable[[dict[str, Any], dict[str, Any]], dict[str, Any]],
) -> Filed:
    row: dict[str, Any] = {"task": task["data"].get("task"), "annotator": annotator(annotation)}
    where = f"annotation {annotation['id']} (task {task['id']} of Label Studio)"
    if annotation.get("was_cancelled"):
        return Filed(where, row, "skipped by the annotator")
    try:
        return Filed(where, row | fields(annotation, task["data"]))
    except (KeyError, TypeError, AttributeError) as error:
        return Filed(where, row, one_line(f"not a result of this form ({type(error).__name__}: {error})"))
    except ValueError as error:
        return Filed(where, row, one_line(str(error)))


def annotator(annotation: dict[str, Any]) -> str:
    """Who filed it, as "user-<id>"."""
    who = annotation.get("completed_by")
    who = who.get("id") if isinstance(who, dict) else who
    return f"user-{one_line(str(who), 100) if isinstance(who, int | str) else None}"


def text_of(value: Any) -> str:
    """The text of a text area's value, which is one text or several."""
    return " ".join(value["text"]) if isinstance(value["text"], list) else value["text"]
