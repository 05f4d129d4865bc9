"""The folder of a demonstration: one run's sizes, never another one's."""

import json
import time
from collections.abc import Callable
from pathlib import Path

from editcaption_mega.cli import ArgumentError


def start_over_if_changed(out: Path, wanted: dict, mark: str, say: Callable[[str], object]) -> None:
    """An earlier run of other sizes is set aside, never mixed with this one or deleted.

    mark: the file in `out` that says which sizes it has. Raises ArgumentError for a folder of something else."""
    if out.exists() and not out.is_dir():
        raise ArgumentError(f"{out} is a file: choose another --output")
    if out.is_dir() and any(out.iterdir()):
        found = json.loads((out / mark).read_text(encoding="utf-8")) if (out / mark).is_file() else None
        if found is None:
            raise ArgumentError(f"{out} holds something else than a demo: choose another --output")
        if found != wanted:
            aside = out.with_name(f"{out.name}.{time.strftime('%Y%m%d-%H%M%S')}")
            say(f"{out} holds a demo of other sizes, moved to {aside}")
            out.rename(aside)
    out.mkdir(parents=True, exist_ok=True)
    (out / mark).write_text(json.dumps(wanted) + "\n", encoding="utf-8")
