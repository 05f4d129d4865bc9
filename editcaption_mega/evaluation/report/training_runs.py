"""The training runs behind the models of a report: their curves, and what they took."""

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .training_texts import PairHistory, read_texts

REWARD_MARGIN = "reward_margin"
HELD_OUT = "held_out/"  # before the names of what is measured on the held-out pairs


@dataclass(frozen=True)
class TrainingRun:
    """The metrics of one run, an object per optimizer step, and the texts that it wrote for a few held-out pairs."""

    name: str
    metrics: list[dict[str, Any]]
    texts: Sequence[PairHistory] = ()

    @property
    def learns_preferences(self) -> bool:
        return REWARD_MARGIN in self.metrics[0]

    def curve(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of the steps that have it."""
        return [(step["step"], step[key]) for step in self.metrics if isinstance(step.get(key), int | float)]

    def to_json(self) -> dict[str, Any]:
        last = self.metrics[-1]
        known = [loss for _, loss in self.curve("loss")]  # a step that was skipped may have none
        losses = [loss if math.isfinite(loss) else None for loss in (*known[:1], *known[-1:])] or [None, None]
        return {
            "steps": last["step"],
            "samples": last["samples"],
            "tokens": sum(step["tokens"] for step in self.metrics),
            "seconds": sum(step["seconds"] for step in self.metrics),
            "first_loss": losses[0],
            "last_loss": losses[1],
        }


def read_run(name: str, folder: str | Path) -> TrainingRun:
    """The run whose folder this is. Raises ValueError for a folder without whole metrics or with damaged texts; half a
    last line, of a run that goes on, is passed over."""
    path = Path(folder) / "metrics.jsonl"
    if not path.is_file():
        raise ValueError(f"training run {name}: {path} does not exist; name the folder of a training run")
    lines = path.read_bytes().splitlines()
    metrics = []
    for number, line in enumerate(lines, start=1):
        try:
            step = json.loads(line)  # a run that diverged has NaN
            lacking = [key for key in ("step", "loss", "samples", "tokens", "seconds") if key not in step]
            if lacking:
                raise ValueError(f"it lacks {', '.join(lacking)}")
            metrics.append(step)
        except (ValueError, TypeError) as error:
            if number < len(lines):
                raise ValueError(f"training run {name}: {path}, line {number}: {error}") from None
    if not metrics:
        raise ValueError(f"training run {name}: {path} has no step yet")
    return TrainingRun(name, metrics, read_texts(name, Path(folder)))
