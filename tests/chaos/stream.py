"""What of the stream of samples is trained on, while starts end anywhere and each has other ranks, workers and rows.

Every rank notes the samples of each step behind its update. Of each step the notes of the last start that made it are
those that the weights come from: together they must be the step's samples in an undisturbed run, no more and no fewer.
"""

import functools
import json
import os
import random
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

RANKS, WORKERS = (1, 2), (1, 2, 3)
ROWS = (("512", "true"), ("1024", "true"), ("512", "false"))  # data.sequence_length, data.packing
BAR = 1e-4  # of a step's loss, as between layouts in docs/parity.md


@dataclass(frozen=True)
class Layout:
    """How one start computes: data-parallel ranks, worker processes of each, and micro-batches."""

    ranks: int
    workers: int
    rows: tuple[str, str] = ROWS[0]

    @classmethod
    def draw(cls, rng: random.Random) -> "Layout":
        return cls(rng.choice(RANKS), rng.choice(WORKERS), rng.choice(ROWS))

    @property
    def overrides(self) -> list[str]:
        length, packing = self.rows
        return [
            "data.worker_processes=true", f"data.workers={self.workers}", f"data.sequence_length={length}",
            f"data.packing={packing}",
        ]  # fmt: skip

    def __str__(self) -> str:
        rows = f"rows of {self.rows[0]}" if self.rows[1] == "true" else "a row for each sample"
        return f"{self.ranks} ranks, {self.workers} workers, {rows}"


def note_samples(path: str) -> None:
    """In a process that forks ranks: each of them writes down what it has trained on."""
    from editcaption_mega.training import loop

    start, train_step = f"{os.getpid()}-{os.urandom(4).hex()}", loop.train_step

    @functools.wraps(train_step)
    def noted(state, objective, step, *rest):
        numbers = train_step(state, objective, step, *rest)
        ids = [name for batch in step.micro_batches for name in batch.sample_ids]
        line = json.dumps({"start": start, "step": step.number + 1, "ids": ids}) + "\n"
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, line.encode())
        os.close(descriptor)
        return numbers

    loop.train_step = noted


def trained_on(path: Path) -> dict[int, list[str]]:
    """The samples of each step, by the last start that made it. AssertionError where an earlier one had others."""
    of_step: dict[int, dict[str, Counter[str]]] = {}
    for line in path.read_text().splitlines():
        note = json.loads(line)
        of_step.setdefault(note["step"], {}).setdefault(note["start"], Counter()).update(note["ids"])
    for step, starts in of_step.items():
        *earlier, last = starts.values()
        for part in earlier:
            assert part <= last, f"step {step} was of {sorted(part.elements())}, then of {sorted(last.elements())}"
    return {step: sorted(list(starts.values())[-1].elements()) for step, starts in sorted(of_step.items())}


def same_losses(rows: list[tuple[float, ...]], expected: list[tuple[float, ...]]) -> bool:
    """Whether losses and learning rates are those of another layout."""
    return len(rows) == len(expected) and all(
        abs(mine[0] - other[0]) <= BAR and mine[2] == other[2] for mine, other in zip(rows, expected, strict=True)
    )
