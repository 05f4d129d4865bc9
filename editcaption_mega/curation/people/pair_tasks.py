"""Tasks for people as a folder that any tool can read: pictures, tasks.jsonl, form.json; beside them where each text
comes from.

    tasks.jsonl     {"task", "pair", "source", "target", "source_sha256", "target_sha256", "text", "hints"}, the
                    doubtful first; pictures are paths relative to the file
    form.json       the question, and the meaning of each verdict, tag and severity
    origins.jsonl   {"task", "draft": what made the text, "doubt": 0 .. 1, "screens": values of the columns behind it}
"""

import hashlib
import json
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.data.shards.reader import ShardReader
from editcaption_mega.evaluation.human.task_folder import FORM_FILE, TASKS_FILE, store_picture, write_with_mode
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records.evaluation import EvaluationRecord
from editcaption_mega.settings import SettingsError

from .doubt import AnyScreen, doubt_of
from .drafts import Draft, Drafts
from .questions import people_form
from .same_text import same_tokens
from .task_records import ORIGINS_FILE, PairTask, TaskOrigin, read_pair_tasks


@dataclass(frozen=True)
class ExportOptions:
    """Which pairs become tasks, in which order, and what is shown beside them."""

    first: Sequence[AnyScreen] = ()  # the most doubtful pairs come first, by these columns
    hints: Sequence[AnyScreen] = ()  # columns that people see
    limit: int | None = None
    skip: frozenset[str] = frozenset()  # pairs that earlier batches have
    keep_right: bool = True  # whether a text that says what the pair's own instruction says becomes a task too


@dataclass
class ExportCounts:
    tasks: int = 0
    left_out: Counter[str] = field(default_factory=Counter)  # reason -> pairs


@dataclass(frozen=True)
class _Chosen:
    at: int
    draft: Draft
    doubt: float


def export_pair_tasks(
    reader: ShardReader,
    form: str,
    drafts: Drafts,
    folder: str | Path,
    options: ExportOptions = ExportOptions(),  # noqa: B008 (frozen)
    progress: Progress = no_progress,
) -> ExportCounts:
    """Write the folder. The same export again writes the same bytes, so one that was killed is repeated.

    Raises SettingsError for a folder that holds other tasks (people may have answered them), ValueError when no pair
    becomes a task, or for a column that is not there."""
    folder = Path(folder)
    chosen, counts = _chosen(reader, drafts, options)
    if not chosen:
        reasons = ", ".join(f"{count:,} x {reason}" for reason, count in counts.left_out.most_common(3))
        raise ValueError(f"of {len(reader):,} pairs none becomes a task ({reasons or 'there are none'})")
    names = [_task_name(form, reader.ids[each.at], each.draft.text) for each in chosen]
    _refuse_others(folder, form, names)
    shown = [list(_picked(screen, reader, chosen)) for screen in options.hints]
    screened = [list(_picked(screen, reader, chosen)) for screen in options.first]
    tasks, origins = [], []
    for i, (name, each) in enumerate(progress(zip(names, chosen, strict=True), len(chosen), "tasks")):
        pictures = [reader.picture(each.at, "source"), reader.picture(each.at, "target")]
        source, target = (store_picture(folder, picture) for picture in pictures)
        digests = [hashlib.sha256(picture).hexdigest() for picture in pictures]
        hints = [_hint(screen, values[i]) for screen, values in zip(options.hints, shown, strict=True)]
        tasks.append(
            PairTask(
                task=name, pair=reader.ids[each.at], source=source, target=target, source_sha256=digests[0],
                target_sha256=digests[1], text=each.draft.text, hints=[hint for hint in hints if hint],
            )
        )  # fmt: skip
        screens = {screen.column: values[i] for screen, values in zip(options.first, screened, strict=True)}
        origins.append(TaskOrigin(task=name, draft=each.draft.origin, doubt=each.doubt, screens=screens))
    write_with_mode(folder / FORM_FILE, json.dumps(people_form(form).to_json(), indent=1, ensure_ascii=False) + "\n")
    write_with_mode(folder / ORIGINS_FILE, _lines(origins))
    write_with_mode(folder / TASKS_FILE, _lines(tasks))  # last: with it the folder is whole
    counts.tasks = len(tasks)
    return counts


def _task_name(form: str, pair: str, text: str) -> str:
    return hashlib.sha256("\0".join((form, pair, text)).encode()).hexdigest()[:20]


def _chosen(reader: ShardReader, drafts: Drafts, options: ExportOptions) -> tuple[list[_Chosen], ExportCounts]:
    """The pairs that become tasks, the most doubtful first; of equals in the shards' order."""
    counts = ExportCounts()
    usable = np.zeros(len(reader), bool)
    for at, draft in drafts():
        if reason := _unusable(reader, at, draft, options):
            counts.left_out[reason] += 1
        else:
            usable[at] = True
    doubt = doubt_of(reader, options.first)
    order = [at for at in np.argsort(-doubt, kind="stable").tolist() if usable[at]][: options.limit]
    if beyond := int(usable.sum()) - len(order):
        counts.left_out["beyond the limit"] = beyond
    wanted = set(order)
    texts = {at: draft for at, draft in drafts() if at in wanted and isinstance(draft, Draft)}
    return [_Chosen(at, texts[at], round(float(doubt[at]), 6)) for at in order], counts


def _unusable(reader: ShardReader, at: int, draft: Draft | str, options: ExportOptions) -> str | None:
    if reader.ids[at] in options.skip:
        return "in an earlier batch"
    if isinstance(draft, str):
        return draft
    if not options.keep_right:
        own = reader.pair(at).instruction
        if own and same_tokens(own, draft.text):
            return "already_correct: the same as the pair's own instruction"
    return None


def _picked(screen: AnyScreen, reader: ShardReader, chosen: Sequence[_Chosen]) -> Iterable[Any]:
    wanted = {each.at for each in chosen}
    values = {at: value for at, value in enumerate(screen.values(reader)) if at in wanted}
    return (values[each.at] for each in chosen)


def _hint(screen: AnyScreen, value: Any) -> str | None:
    if value in (None, [], "", False):
        return None
    words = ", ".join(map(str, value)) if isinstance(value, list) else value
    return f"{screen.column}: {round(words, 3) if isinstance(words, float) else words}"


def _refuse_others(folder: Path, form: str, names: Sequence[str]) -> None:
    if not (folder / TASKS_FILE).exists():
        return
    there_form, there = read_pair_tasks(folder)
    if there_form != form or list(there) != list(names):
        raise SettingsError(
            f"{folder} holds {len(there):,} tasks of another export ({there_form}), which people may have answered: "
            "choose another folder"
        )


def _lines(records: Iterable[EvaluationRecord]) -> str:
    return "".join(json.dumps(record.to_json(), ensure_ascii=False) + "\n" for record in records)
