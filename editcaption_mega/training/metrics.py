"""Where numbers go: metrics.jsonl (every step), the loggers, the log file and the progress line."""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from editcaption_mega.settings import JobSettings

from .line_file import LineFile, drop_after
from .loggers import Loggers, grouped, open_chosen

_NAMED = 5  # bad samples of a step, in the log


class RunLog:
    """The run folder's records; used on rank 0 only.

    Resuming at step n drops what a killed run wrote after step n, so that each step has one line. shown: of an
    objective's own metrics those that the progress line has, and their names there; blank_with: of these, what says
    nothing at a step that has another metric. settings: of the job, which say what the loggers are; None for none.
    `loggers` take texts and images, too."""

    def __init__(
        self,
        output: str | Path,
        *,
        first_step: int,
        total_steps: int,
        log_every: int,
        shown: Mapping[str, str] | None = None,
        blank_with: Mapping[str, str] | None = None,
        settings: JobSettings | None = None,
    ):
        self.output, self.total_steps, self.log_every = Path(output), total_steps, log_every
        self.shown, self.blank_with = shown or {}, blank_with or {}
        self.output.mkdir(parents=True, exist_ok=True)
        damaged, known = drop_after(self.output / "metrics.jsonl", first_step)
        self._metrics, self._text = LineFile(self.output / "metrics.jsonl"), LineFile(self.output / "log.txt")
        self.loggers = (
            Loggers([], self.say)
            if settings is None
            else open_chosen(settings, self.output, first_step, known, self.say)
        )
        self.first_logged = max(first_step, known) + 1  # the first step that is new to every logger
        self._began, self._first_step = time.monotonic(), first_step
        if damaged:
            self.say(f"metrics.jsonl: {damaged} damaged line(s) dropped")

    def say(self, line: str) -> None:
        """A line for people: terminal and log.txt."""
        print(line, flush=True)
        now = time.strftime("%Y-%m-%d %H:%M:%S")
        for part in line.splitlines():
            self._text.write(f"{now} {part}")

    def step(self, numbers: dict[str, Any]) -> None:
        """One optimizer step. `numbers` holds step, loss, grad_norm, learning_rate, tokens, samples, seconds; of a step
        without an update also why (`skipped`), and None for what is not known or not finite; `bad_samples` where some
        are left out."""
        self._metrics.write(json.dumps(numbers))
        step = numbers["step"]
        self.loggers.scalars(step, grouped(numbers))
        for line in _bad_samples(step, numbers.get("bad_samples", [])):
            self.say(line)
        if numbers.get("skipped"):
            self.say(f"step {step}/{self.total_steps}  SKIPPED: {numbers['skipped']}")
        elif step % self.log_every == 0 or step == self.total_steps:
            done = step - self._first_step
            left = (time.monotonic() - self._began) / max(done, 1) * (self.total_steps - step)
            speed = numbers["tokens"] / max(numbers["seconds"], 1e-9)
            self.say(
                f"step {step}/{self.total_steps}  loss {numbers['loss']:.4f}  grad {numbers['grad_norm']:.3f}  "
                f"lr {numbers['learning_rate']:.2e}  "
                + "".join(f"{name} {self._shown(key, numbers)}  " for key, name in self.shown.items() if key in numbers)
                + f"{speed:,.0f} tokens/s  {_duration(left)} left"
            )

    def _shown(self, key: str, numbers: dict[str, Any]) -> str:
        return "-" if self.blank_with.get(key) in numbers else f"{numbers[key]:.3f}"

    def close(self, failed: bool = False) -> None:
        """Raises OSError when something could not be written to the end."""
        self.loggers.close(failed)
        self._text.close()
        self._metrics.close()


def _bad_samples(step: int, samples: Sequence[Mapping[str, str]]) -> Iterator[str]:
    """A line for each of the first samples that a step leaves out."""
    for sample in samples[:_NAMED]:
        yield f"step {step}: sample {sample['id']} of {sample['shard']} is left out: {sample['reason']}"
    if len(samples) > _NAMED:
        yield f"step {step}: {len(samples) - _NAMED} more samples are left out, which metrics.jsonl names"


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s"
