"""Tasks as HTML files that need no server: pictures inside, answers kept in the browser, and saved as JSONL."""

import base64
import hashlib
import os
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import batched
from pathlib import Path

from markupsafe import Markup

from editcaption_mega.evaluation.report.page.self_contained import (
    content_hash,
    inline,
    inline_script,
    page_environment,
    script_json,
)
from editcaption_mega.evaluation.report.page.thumbnails import shrunk
from editcaption_mega.files import replacing
from editcaption_mega.progress import Progress, no_progress

from .questions import people_form
from .task_records import PairTask, read_pair_tasks

PAGE_BYTES = 60_000_000  # what the pictures of a page stay below, as text, while each has its least
MOST_BYTES, LEAST_BYTES = 300_000, 24_000  # of one picture
PICTURE_SIDE = 1280  # pixels of the longer side: detail is one of the things that people look for
_PACKAGE = "editcaption_mega.curation.people"
_SCRIPTS = ("review_state.js", "review_spans.js", "review_show.js", "review_main.js")


def write_pages(folder: str | Path, tasks_per_page: int, progress: Progress = no_progress) -> list[Path]:
    """review-001.html and so on in the folder of tasks, each with so many of them in their order -> the files.

    An answer that a page saves is one that `check_answers` reads. Raises ImageError for a picture that is none."""
    folder = Path(folder)
    form, tasks = read_pair_tasks(folder)
    batches = list(batched(tasks.values(), tasks_per_page))
    paths = [folder / f"review-{number:03d}.html" for number in range(1, len(batches) + 1)]
    for number, (path, batch) in enumerate(progress(zip(paths, batches, strict=True), len(paths), "pages"), 1):
        with replacing(path) as file:
            file.writelines(review_page(folder, form, batch, f"{number} of {len(batches)}"))
    return paths


def review_page(folder: Path, form: str, tasks: Sequence[PairTask], part: str) -> Iterator[str]:
    """The HTML in pieces. part: which of the pages it is."""
    style, script = inline(_PACKAGE, ("review.css",)), inline_script(_PACKAGE, _SCRIPTS)
    questions = people_form(form)
    names = "\n".join(task.task for task in tasks)
    data = {
        "form": questions.to_json(),
        "batch": hashlib.sha256(names.encode()).hexdigest()[:16],  # answers in the browser are kept under it
        "tasks": [task.to_json() for task in tasks],
    }
    budget = int(PAGE_BYTES * 3 / 4 / max(1, 2 * len(tasks)))
    pictures = _pictures(folder, tasks, max(LEAST_BYTES, min(MOST_BYTES, budget)))
    return page_environment(_PACKAGE).get_template("review.html.j2").generate(
        form=questions, part=part, count=len(tasks), data=Markup(script_json(data)),
        pictures=(Markup(text) for text in pictures), style=Markup(style), style_hash=content_hash(style),
        script=Markup(script), script_hash=content_hash(script),
    )  # fmt: skip


def _pictures(folder: Path, tasks: Sequence[PairTask], budget: int) -> Iterator[str]:
    """Per task "MIME,base64 MIME,base64"; a few are in memory at a time."""
    workers = os.cpu_count() or 1

    def text(name: str) -> str:
        mime, data = shrunk((folder / name).read_bytes(), budget, side=PICTURE_SIDE, where=name)
        return f"{mime},{base64.b64encode(data).decode()}"

    with ThreadPoolExecutor(workers) as pool:
        for few in batched(tasks, 4 * workers):
            texts = pool.map(text, (name for task in few for name in (task.source, task.target)))
            yield from (f"{source} {target}" for source, target in batched(texts, 2))
