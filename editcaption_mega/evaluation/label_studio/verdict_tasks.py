"""The annotators' form as a Label Studio project: push tasks, pull answers, which `human.import_answers` checks."""

from collections.abc import Iterable, Mapping
from importlib import resources
from itertools import pairwise
from pathlib import Path
from typing import Any

from editcaption_mega.evaluation.human.filed_answers import Filed
from editcaption_mega.evaluation.human.tasks import Key, checklist, read_tasks
from editcaption_mega.evaluation.human.verdicts import Imported, import_answers
from editcaption_mega.progress import Progress, no_progress

from .api import LabelStudio
from .picture_tasks import PictureTask, ProjectForm, pull_filed, push_picture_tasks, rendered_form, text_of
from .project import Pushed


def label_config() -> str:
    """The form: both pictures, the instruction as text, one severity, and the checklist's rows of that severity."""
    template = resources.files("editcaption_mega.evaluation.label_studio").joinpath("forms/verdict.xml.j2")
    return rendered_form(template, checklist())


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
    rows = read_tasks(folder).values()
    tasks = [
        PictureTask(row["task"], row["source"], row["target"], {"instruction": row["instruction"]}) for row in rows
    ]
    form = ProjectForm(title, label_config(), annotators)
    return push_picture_tasks(server, Path(folder), form, tasks, document_root=document_root, progress=progress)


def pull_answers(server: LabelStudio, title: str) -> list[Filed]:
    """Every annotation of the project as an answer for `human.import_answers`, the annotator as "user-<id>". Skipped
    ones, and those that are not of this form, come with the reason. Raises LabelStudioError without such a project."""
    return pull_filed(server, title, lambda annotation, _: _fields(annotation))


def pull_verdicts(server: LabelStudio, title: str, key: Key) -> Imported:
    return import_answers(pull_answers(server, title), key)


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
            row["remark"] = text_of(value)
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
