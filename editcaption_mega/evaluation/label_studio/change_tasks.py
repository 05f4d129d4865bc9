"""Proposed ground truth checked in Label Studio: the proposal stands in the form, a person edits and approves it."""

from collections.abc import Iterable, Iterator
from importlib import resources
from typing import Any

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.ground_truth import Proposal
from editcaption_mega.inference.endpoint.messages import Picture
from editcaption_mega.inference.endpoint.openai_protocol import data_url
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import Changes

from .api import LabelStudio
from .picture_tasks import annotator
from .project import Pushed, exported_tasks, import_tasks, open_project, tasks_there

_FIELDS = ("primary", "secondary", "overall")


def form() -> str:
    return resources.files("editcaption_mega.evaluation.label_studio").joinpath("forms/changes.xml").read_text("utf-8")


def push_proposals(
    server: LabelStudio,
    title: str,
    benchmark: Benchmark,
    rows: Iterable[Proposal],
    progress: Progress = no_progress,
) -> Pushed:
    """The proposals as tasks of that project, made if there is none; those that are there are not pushed again.

    Raises ValueError for rows that do not fit the benchmark. Pairs without a proposal get an empty form: a person can
    still say what changed."""
    by_id = {row.id: row for row in rows}
    benchmark.check_join(by_id, "the proposals")
    project = open_project(server, title, form())
    there = tasks_there(server, project)
    waiting = [i for i, pair_id in enumerate(benchmark.ids) if pair_id not in there]

    def tasks() -> Iterator[dict[str, Any]]:
        for i in progress(waiting, len(waiting), "tasks"):
            item = benchmark.item(i)
            row = by_id[item.pair.id]
            pictures = {"picture_1": data_url(Picture(item.source)), "picture_2": data_url(Picture(item.target))}
            data = {"pair": item.pair.id, "support": _support(row), **pictures}
            task: dict[str, Any] = {"data": data, "meta": {"task": item.pair.id}}
            if row.changes is not None:
                task["predictions"] = [{"model_version": "proposal", "result": _result(row.changes)}]
            yield task

    import_tasks(server, project, tasks())
    return Pushed(project, len(waiting), len(benchmark) - len(waiting))


def pull_proposals(server: LabelStudio, title: str, rows: Iterable[Proposal]) -> list[Proposal]:
    """The same rows with what people made of them; rows that nobody has annotated stay unapproved. Of several
    annotations of a task the last one counts. Raises ValueError for an annotation that is not of this form."""
    checked = {}
    for task in exported_tasks(server, title):
        done = [annotation for annotation in task["annotations"] if not annotation.get("was_cancelled")]
        if done:
            last = max(done, key=lambda annotation: annotation["id"])
            checked[str(task["data"].get("pair"))] = (task["id"], last)
    pulled = []
    for row in rows:
        if row.id in checked:
            number, annotation = checked.pop(row.id)
            try:
                row = _checked(row, number, annotation)
            except (KeyError, TypeError, AttributeError, IndexError) as error:
                raise ValueError(
                    f"task {number} ({row.id}): not a result of this form ({type(error).__name__})"
                ) from None
        pulled.append(row)
    if checked:
        raise ValueError(f"project {title!r} has tasks of other pairs ({sorted(map(str, checked))[0]}): another title?")
    return pulled


def _support(row: Proposal) -> str:
    lines = [f"{change}: {', '.join(models)}" for change, models in row.support.items()]
    lines += [f"left out: {statement}" for statement in row.dropped]
    return "\n".join(lines) if row.changes is not None else f"no proposal: {row.reason}"


def _result(changes: Changes) -> list[dict[str, Any]]:
    texts = {name: [change.text for change in getattr(changes, name)] for name in ("primary", "secondary")}
    texts["overall"] = [changes.overall]
    return [
        {"from_name": name, "to_name": "support", "type": "textarea", "value": {"text": texts[name]}}
        for name in _FIELDS
        if texts[name]
    ]


def _checked(row: Proposal, task: int, annotation: dict[str, Any]) -> Proposal:
    texts: dict[str, list[str]] = {name: [] for name in _FIELDS}
    approved = ""
    for field in annotation["result"]:
        name, value = field.get("from_name"), field.get("value", {})
        if name in texts:
            given = value.get("text", [])
            texts[name] += [text.strip() for text in ([given] if isinstance(given, str) else given) if text.strip()]
        elif name == "approved":
            approved = value["choices"][0]
        else:
            raise ValueError(f"task {task}: field {name!r} is not part of the form: was the project's form changed?")
    by = {"annotator": annotator(annotation)}
    if approved == "cannot be told":
        return row.model_copy(update={**by, "approved": False, "changes": None, "reason": "a person could not tell"})
    if approved != "approved" or not texts["primary"] or len(texts["overall"]) != 1:
        raise ValueError(
            f"task {task} ({row.id}): expected an approved form with primary changes and one overall sentence, found "
            f"{approved or 'no approval'}, {len(texts['primary'])} primary changes, {len(texts['overall'])} sentences"
        )
    ids = {name: [{"id": f"{name[0].upper()}{n}", "text": text} for n, text in enumerate(texts[name], 1)] for name in
           ("primary", "secondary")}  # fmt: skip
    changes = Changes(**ids, overall=texts["overall"][0])
    return row.model_copy(update={**by, "approved": True, "changes": changes, "reason": None})
