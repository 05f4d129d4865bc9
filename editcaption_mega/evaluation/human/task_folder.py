"""A folder of tasks for people, whatever they are asked: pictures as files, named by their content, and a JSONL."""

import hashlib
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from editcaption_mega.data.images.formats import extension
from editcaption_mega.files import parse_json

TASKS_FILE, FORM_FILE, PICTURES = "tasks.jsonl", "form.json", "pictures"


def read_task_rows(folder: str | Path, names: Iterable[str]) -> dict[str, dict[str, Any]]:
    """task -> its row, in the order of the file. names: the fields that a row has, "task" among them. Raises
    ValueError, with the line, for one that is no task."""
    path, names = Path(folder) / TASKS_FILE, set(names)
    rows: dict[str, dict[str, Any]] = {}
    with open(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                row = parse_json(line)
            except ValueError as error:
                raise ValueError(f"{path} line {number}: {error}; export the tasks again") from None
            if not isinstance(row, dict) or set(row) != names or row["task"] in rows:
                raise ValueError(f"{path} line {number}: expected a task of its own with {', '.join(sorted(names))}")
            rows[row["task"]] = row
    return rows


def store_picture(folder: Path, data: bytes) -> str:
    """Its path within the folder; the name is its content's, so tasks of one pair share the file."""
    name = f"{PICTURES}/{hashlib.sha256(data).hexdigest()[:32]}.{extension(data)}"
    if not (folder / name).exists():
        write_with_mode(folder / name, data)
    return name


def write_with_mode(path: Path, content: str | bytes, mode: int = 0o644) -> None:
    """Write the file whole, readable for whom the mode says."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(path.name + ".partial")
    descriptor = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, mode)
    with open(descriptor, "wb") as file:
        file.write(content.encode("utf-8") if isinstance(content, str) else content)
    os.replace(temporary, path)
