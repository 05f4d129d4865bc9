"""What a job does beside the steps: it records each one, and saves."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from editcaption_mega import platform
from editcaption_mega.data.text.side_files import SideFiles

from .bad_samples import BadSamples
from .bad_steps import BadSteps
from .checkpoint import CheckpointFolder, CheckpointSaver
from .identity import flat
from .improvement import Improvement
from .metrics import RunLog
from .session import Session


@dataclass(frozen=True)
class RunRecorder:
    """The run folder during the steps (`loop.Recorder`): metrics, checkpoints, the lock. On every rank; rank 0 has the
    log."""

    session: Session
    side_files: SideFiles
    metadata: dict[str, Any]
    identity: dict[str, Any]
    saver: CheckpointSaver
    bad_steps: BadSteps
    log: RunLog | None
    improvement: Improvement | None = None  # of the held-out pairs, if they are evaluated
    bad_samples: BadSamples | None = None

    def record(self, numbers: dict[str, Any]) -> None:
        if self.log:
            self.log.step(numbers)
        self.saver.relay()
        self.saver.prepare()

    def say(self, line: str) -> None:
        if self.log:
            self.log.say(line)

    def stopping(self) -> None:
        if self.log:
            self.session.lock.stopping()

    def save(self, step: int, required: bool) -> None:
        settings = self.session.settings
        platform.from_rank_zero(self.session.lock.check)
        evaluation = {}
        if self.improvement is not None:
            self.improvement.saved(self.saver.newest())
            evaluation = {"evaluation": self.improvement.state(step)}
        state = {
            "step": step,
            "updates": step - self.bad_steps.skipped,
            "samples": step * settings.training.global_batch_size,
            "identity": self.identity,
            "settings": flat(settings),
            **({} if self.bad_samples is None else {"bad_samples": self.bad_samples.count}),
            **evaluation,
        }
        folder = CheckpointFolder(
            self.session.output, state, self.side_files, self.metadata, may_publish=self.session.lock.check
        )
        self.saver.begin(folder, required=required)
        if required:
            self.saver.settle()

    def newest(self) -> int:
        return self.saver.newest()

    @contextmanager
    def failing(self) -> Iterator[None]:
        """A block of the steps: where it fails, the loggers say so of the run."""
        try:
            yield
        except Exception:
            if self.log:
                self.log.loggers.close(failed=True)
            raise

    def close(self) -> None:
        """At the end of the steps, however they ended."""
        self.saver.close()
