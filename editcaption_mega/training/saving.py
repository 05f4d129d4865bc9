"""What a job does beside the steps: it records each one, and saves."""

from dataclasses import dataclass
from typing import Any

from megatron.core.optimizer import MegatronOptimizer

from editcaption_mega import job_outcome, platform
from editcaption_mega.conversion import ParamShard
from editcaption_mega.data.text.side_files import SideFiles

from .checkpoint import save_checkpoint
from .identity import flat
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
    optimizer: MegatronOptimizer
    param_shards: list[ParamShard]
    log: RunLog | None

    def record(self, numbers: dict[str, Any]) -> None:
        if self.log:
            self.log.step(numbers)

    def say(self, line: str) -> None:
        if self.log:
            self.log.say(line)

    def stopping(self) -> None:
        if self.log:
            self.session.lock.stopping()

    def save(self, step: int, required: bool) -> bool:
        """-> whether it was written. One that could not be ends the job only where it is `required`. Collective."""
        settings = self.session.settings
        platform.from_rank_zero(self.session.lock.check)
        state = {
            "step": step,
            "updates": step,
            "samples": step * settings.training.global_batch_size,
            "identity": self.identity,
            "settings": flat(settings),
        }
        try:
            save_checkpoint(
                self.session.output, state, self.param_shards, self.optimizer,
                side_files=self.side_files, metadata=self.metadata, keep=settings.checkpoint.keep,
            )  # fmt: skip
        except OSError as error:  # raised alike on every rank
            if required:
                error.add_note("make room, and the same command goes on from the newest checkpoint")
                raise
            if self.log:
                self.log.say(
                    f"WARNING: NO CHECKPOINT: {error}. Make room: training goes on, and tries again after "
                    f"{settings.checkpoint.every} steps"
                )
            return False
        if self.log:
            job_outcome.note_progress(checkpoint=step)
        return True
