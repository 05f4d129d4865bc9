"""Tasks for annotators that tell nothing of the models: pictures as files, a JSONL beside them, and the key apart."""

import hashlib
import hmac
import json
import secrets
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cache
from importlib import resources
from pathlib import Path
from typing import Any

import yaml

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import Instruction
from editcaption_mega.settings import SettingsError

from .task_folder import FORM_FILE, PICTURES, TASKS_FILE, read_task_rows, store_picture, write_with_mode


@cache
def checklist() -> dict[str, Any]:
    """The question, the meaning of each severity, and the eight rows (table 5): what a form shows."""
    text = resources.files("editcaption_mega.evaluation.human").joinpath("checklist.yaml").read_text("utf-8")
    content: dict[str, Any] = yaml.safe_load(text)
    return content


@dataclass(frozen=True)
class Key:
    """What the exporter keeps: which instruction each task shows. `secret` makes the tasks' names, so that another
    export with this key names the same instruction the same, and nobody without it can tell the models apart."""

    secret: str
    tasks: dict[str, tuple[str, str, str]] = field(default_factory=dict)  # task -> benchmark, pair id, model

    def task(self, benchmark: str, pair: str, model: str) -> str:
        what = "\0".join((benchmark, pair, model)).encode()
        return hmac.new(bytes.fromhex(self.secret), what, hashlib.sha256).hexdigest()[:20]

    @classmethod
    def read(cls, path: str | Path) -> "Key":
        """Raises ValueError for a file that is no key."""
        try:
            row = json.loads(Path(path).read_text("utf-8"))
            key = cls(row["secret"], {task: _who(who) for task, who in row["tasks"].items()})
            if any(key.task(*who) != task for task, who in key.tasks.items()):
                raise ValueError("a task's name is not the one that its secret gives")
            return key
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise ValueError(f"{path} is not the key of an export ({type(error).__name__}: {error})") from None

    def write(self, path: str | Path) -> None:
        """For the owner's eyes only (mode 600)."""
        names = ("benchmark", "id", "model")
        tasks = {task: dict(zip(names, who, strict=True)) for task, who in sorted(self.tasks.items())}
        write_with_mode(Path(path), json.dumps({"secret": self.secret, "tasks": tasks}, indent=1) + "\n", mode=0o600)


def _who(row: Mapping[str, str]) -> tuple[str, str, str]:
    return row["benchmark"], row["id"], row["model"]


@dataclass(frozen=True)
class Exported:
    tasks: int
    left_out: list[Instruction]  # without an instruction there is nothing to judge; each says why there is none


@dataclass(frozen=True)
class Export:
    """What an export would write: `planned_export` makes it and writes nothing."""

    key: Key  # with the tasks of this export
    there: dict[str, dict[str, Any]]  # task -> its row in the folder
    instructions: dict[str, list[Instruction]]  # pair id -> those to be judged, of each pair that was chosen
    left_out: list[Instruction]

    @property
    def tasks(self) -> int:
        return sum(map(len, self.instructions.values()))


def planned_export(
    benchmark: Benchmark,
    instructions: Iterable[Instruction],
    folder: str | Path,
    key_file: str | Path,
    *,
    ids: Sequence[str] | None = None,
) -> Export:
    """The arguments and what is raised: as `export_tasks`."""
    folder, key_file = Path(folder), Path(key_file)
    if key_file.resolve().is_relative_to(folder.resolve()):
        raise SettingsError(f"the key {key_file} would lie in {folder}, which annotators see: keep it somewhere else")
    by_pair = _by_pair(benchmark, instructions)
    chosen = list(benchmark.ids if ids is None else ids)
    unknown = [pair for pair in chosen if pair not in by_pair]
    if unknown:
        raise ValueError(f"{len(unknown)} of {len(chosen)} ids are not of benchmark {benchmark.name} ({unknown[0]})")
    key = Key.read(key_file) if key_file.exists() else Key(secrets.token_hex(32))
    there = read_tasks(folder) if (folder / TASKS_FILE).exists() else {}
    foreign = [task for task in there if task not in key.tasks]
    if foreign:
        raise SettingsError(f"{folder} holds tasks that {key_file} does not know ({foreign[0]}): give their key")
    wanted = {pair: [row for row in by_pair[pair] if row.instruction is not None] for pair in chosen}
    for row in (row for rows in wanted.values() for row in rows):
        task = key.task(row.benchmark, row.id, row.model)
        if task in there and there[task]["instruction"] != row.instruction:
            raise ValueError(
                f"{folder} already shows another instruction of {row.model} for {row.id}; people may have judged it: "
                "export to another folder with another key"
            )
        key.tasks[task] = (row.benchmark, row.id, row.model)
    return Export(key, there, wanted, [row for pair in chosen for row in by_pair[pair] if row.instruction is None])


def export_tasks(
    benchmark: Benchmark,
    instructions: Iterable[Instruction],
    folder: str | Path,
    key_file: str | Path,
    *,
    ids: Sequence[str] | None = None,
    progress: Progress = no_progress,
) -> Exported:
    """Write `folder`: tasks.jsonl ({"task", "source", "target", "instruction"}, pictures relative to the file), the
    pictures, and form.json (the question, the severities, the checklist). The key is made, or grows, at `key_file`.

    instructions: of any models; each model must have exactly one for every pair of the benchmark. ids: the pairs to be
    judged (default: all). Tasks stand in the order of their names, which is random. An export over an older one with
    the same key adds to it. Raises ValueError before any work for rows that do not fit the benchmark, for a key inside
    the folder (annotators would see it), and for a folder that holds tasks of another key."""
    export = planned_export(benchmark, instructions, folder, key_file, ids=ids)
    folder, key = Path(folder), export.key
    (folder / PICTURES).mkdir(parents=True, exist_ok=True)
    key.write(key_file)  # first: tasks without their key would be worth nothing
    rows = dict(export.there)
    position = {pair: i for i, pair in enumerate(benchmark.ids)}
    for pair, own in progress(export.instructions.items(), len(export.instructions), "pairs"):
        item = benchmark.item(position[pair])
        pictures = {"source": store_picture(folder, item.source), "target": store_picture(folder, item.target)}
        for row in own:
            task = key.task(row.benchmark, row.id, row.model)
            rows[task] = {"task": task, **pictures, "instruction": row.instruction}
    lines = "".join(json.dumps(rows[task], ensure_ascii=False) + "\n" for task in sorted(rows))
    write_with_mode(folder / TASKS_FILE, lines)
    write_with_mode(folder / FORM_FILE, json.dumps(checklist(), indent=1, ensure_ascii=False) + "\n")
    return Exported(export.tasks, export.left_out)


def _by_pair(benchmark: Benchmark, instructions: Iterable[Instruction]) -> dict[str, list[Instruction]]:
    by_model: dict[str, list[Instruction]] = {}
    for row in instructions:
        if row.benchmark != benchmark.name:
            raise ValueError(f"an instruction is of benchmark {row.benchmark}, expected {benchmark.name}")
        by_model.setdefault(row.model, []).append(row)
    by_pair: dict[str, list[Instruction]] = {pair: [] for pair in benchmark.ids}
    for model, rows in by_model.items():
        benchmark.check_join((row.id for row in rows), f"the instructions of {model}")
        for row in rows:
            by_pair[row.id].append(row)
    return by_pair


def read_tasks(folder: str | Path) -> dict[str, dict[str, Any]]:
    """task -> its row, in the order of the file. Raises ValueError, with the line, for one that is no task."""
    return read_task_rows(folder, ("task", "source", "target", "instruction"))
