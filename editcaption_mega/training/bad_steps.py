"""Steps that would spoil the weights: seen before the update, and skipped, rewound, or the end of the job.

A step is bad when its loss or gradient norm is not finite or, with `bad_steps.spike_factor`, when the norm is far above
the median of the last updates. No policy changes what other steps compute: a run with a skipped step resumes bit for
bit, since checkpoints count their updates apart from their steps, and a rewound run is one that never had the step.
"""

import json
import math
import statistics
from collections import deque
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from editcaption_mega import job_outcome, platform
from editcaption_mega.files import parse_json, read_json_object, write_atomically
from editcaption_mega.settings import BadStepSettings

from .resume import BAD_STEPS

FILE = BAD_STEPS  # what a rewound run leaves out from now on
WINDOW = 64
LEAST = 16  # norms before any of them can be a spike


class BadStepError(FloatingPointError):
    """A step that made no update. numbers: what is known of it, for its record."""

    def __init__(self, message: str, loss: float, grad_norm: float | None = None):
        super().__init__(message)
        self.numbers = {
            name: value if value is not None and math.isfinite(value) else None
            for name, value in (("loss", loss), ("grad_norm", grad_norm))
        }


class RewoundError(FloatingPointError):
    """The job ends so that the next start goes on from the newest checkpoint, without the steps that are left out."""

    outcome = job_outcome.FAULT


@dataclass(frozen=True)
class LeftOut:
    """What FILE says: the steps that were bad, and those that are left out because of them. From 1."""

    bad: tuple[int, ...] = ()
    steps: tuple[int, ...] = ()


class BadSteps:
    """The policy of a run, and what it has met. The same on every rank."""

    def __init__(
        self, settings: BadStepSettings, folder: Path, skipped: int = 0, norms: Iterable[float] = (),
        left_out: LeftOut = LeftOut(),
    ):  # fmt: skip
        self.settings, self.folder, self.skipped, self.left_out = settings, folder, skipped, left_out
        self._norms, self._in_a_row = deque(norms, maxlen=WINDOW), 0

    @classmethod
    def of_run(cls, settings: BadStepSettings, folder: Path, step: int, updates: int) -> "BadSteps":
        """Of a run that goes on after `step` steps and so many updates. Collective. Raises ValueError for a file that
        is none of ours."""
        norms, left_out = platform.from_rank_zero(lambda: (_norms(folder, step), _read(folder)))
        return cls(settings, folder, step - updates, norms, left_out)

    def problem(self, norm: float) -> str | None:
        """Why an update with this gradient norm is not made."""
        if not math.isfinite(norm):
            return f"the gradient norm is {norm}"
        factor = self.settings.spike_factor
        if factor and len(self._norms) >= LEAST and norm > factor * (median := statistics.median(self._norms)):
            return (
                f"the gradient norm is {norm:.3g}, more than bad_steps.spike_factor={factor:g} times the median "
                f"{median:.3g} of the last {len(self._norms)} updates"
            )
        return None

    def updated(self, norm: float) -> None:
        self._norms.append(norm)
        self._in_a_row = 0

    def passed_over(self) -> None:
        """A step is left out, as an earlier start has decided."""
        self.skipped += 1

    def take(self, step: int, error: BadStepError, newest: Callable[[], str]) -> None:
        """Skip step number `step` (from 1), or raise what ends the job: FloatingPointError, RewoundError.

        newest: says where the same command goes on; collective."""
        policy, most = self.settings.policy, self.settings.most_in_a_row
        if policy == "stop":
            raise FloatingPointError(f"{error}. {newest()}") from None
        before = self._in_a_row if policy == "skip" else _in_a_row(self.left_out.bad, step)
        if before >= most:
            raise FloatingPointError(
                f"{error}. {before} steps before it were bad, too (bad_steps.most_in_a_row={most}). {newest()}"
            ) from None
        if policy == "skip":
            self._in_a_row += 1
            self.skipped += 1
            return
        first = max(1, step - self.settings.rewind_steps)
        steps = sorted({*self.left_out.steps, *range(first, step + 1)})
        values = {"bad": [*self.left_out.bad, step], "left_out": steps}
        platform.from_rank_zero(lambda: write_atomically(self.folder / FILE, json.dumps(values) + "\n"))
        which = f"step {step}" if first == step else f"steps {first} to {step}"
        raise RewoundError(f"{error}. Rewound: {which} will be left out ({FILE}). {newest()}") from None


def _in_a_row(bad: tuple[int, ...], step: int) -> int:
    """How many bad steps stand right before this one."""
    count = 0
    while step - count - 1 in bad:
        count += 1
    return count


def _read(folder: Path) -> LeftOut:
    path = folder / FILE
    if not path.is_file():
        return LeftOut()
    values = read_json_object(path)
    lists: list[Any] = [values.get(name) for name in ("bad", "left_out")]
    if not all(isinstance(part, list) and all(type(step) is int for step in part) for part in lists):
        raise ValueError(f"{path} does not say which steps are left out (bad, left_out): remove it to leave out none")
    bad, left_out = lists
    return LeftOut(tuple(bad), tuple(left_out))


def _norms(folder: Path, step: int) -> list[float]:
    """The gradient norms of the last updates up to that step, from the run's records."""
    path = folder / "metrics.jsonl"
    norms: deque[float] = deque(maxlen=WINDOW)
    if step and path.is_file():
        for line in path.read_bytes().splitlines():
            try:
                numbers: Any = parse_json(line)
                if numbers["step"] <= step and "skipped" not in numbers:
                    norms.append(float(numbers["grad_norm"]))
            except (ValueError, TypeError, KeyError):  # a damaged line, which RunLog drops and says
                continue
    return list(norms)
