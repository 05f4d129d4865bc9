"""Where numbers go: metrics.jsonl (every step), TensorBoard, the log file and the progress line."""

import json
import math
import os
import time
from pathlib import Path

from torch.utils.tensorboard import SummaryWriter

SHOWN = {"reward_margin": "margin", "reward_accuracy": "accuracy"}  # an objective's own, in the progress line


class RunLog:
    """The run folder's records; used on rank 0 only.

    Resuming at step n drops what a killed run wrote after step n, so that each step has one line."""

    def __init__(self, output: str | Path, *, first_step: int, total_steps: int, log_every: int):
        self.output, self.total_steps, self.log_every = Path(output), total_steps, log_every
        self.output.mkdir(parents=True, exist_ok=True)
        self._drop_after(first_step)
        self._metrics = open(self.output / "metrics.jsonl", "a", encoding="utf-8")  # noqa: SIM115 (open for the whole run)
        self._text = open(self.output / "log.txt", "a", encoding="utf-8")  # noqa: SIM115
        self._board = SummaryWriter(self.output / "tensorboard", purge_step=first_step)
        self._began, self._first_step = time.monotonic(), first_step

    def say(self, line: str) -> None:
        """A line for people: terminal and log.txt."""
        print(line, flush=True)
        self._text.write(line + "\n")
        self._text.flush()

    def step(self, numbers: dict) -> None:
        """One optimizer step. `numbers` holds step, loss, grad_norm, learning_rate, tokens, samples, seconds."""
        self._metrics.write(json.dumps(numbers) + "\n")
        self._metrics.flush()
        step = numbers["step"]
        for name, value in numbers.items():
            if name != "step" and isinstance(value, int | float) and math.isfinite(value):
                self._board.add_scalar(name, value, step)
        if step % self.log_every == 0 or step == self.total_steps:
            done = step - self._first_step
            left = (time.monotonic() - self._began) / max(done, 1) * (self.total_steps - step)
            speed = numbers["tokens"] / max(numbers["seconds"], 1e-9)
            self.say(
                f"step {step}/{self.total_steps}  loss {numbers['loss']:.4f}  grad {numbers['grad_norm']:.3f}  "
                f"lr {numbers['learning_rate']:.2e}  "
                + "".join(f"{name} {numbers[key]:.3f}  " for key, name in SHOWN.items() if key in numbers)
                + f"{speed:,.0f} tokens/s  {_duration(left)} left"
            )

    def close(self) -> None:
        self._metrics.close()
        self._text.close()
        self._board.close()

    def _drop_after(self, step: int) -> None:
        path = self.output / "metrics.jsonl"
        if not path.is_file():
            return
        kept = []
        for line in path.read_text(encoding="utf-8").splitlines():
            try:
                row = json.loads(line)
            except json.JSONDecodeError:
                continue  # the last line of a run that was killed while writing it
            if row["step"] <= step:
                kept.append(line)
        temporary = path.with_suffix(".tmp")
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")
        os.replace(temporary, path)


def _duration(seconds: float) -> str:
    hours, rest = divmod(int(seconds), 3600)
    return f"{hours}h{rest // 60:02d}m" if hours else f"{rest // 60}m{rest % 60:02d}s"
