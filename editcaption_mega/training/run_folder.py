"""The folder of a run: what may lie in it, where a run goes on, its settings now and before."""

import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega import job_outcome, platform
from editcaption_mega.conversion import DamagedCheckpointError, LocalCopies
from editcaption_mega.conversion.checkpoint_folders import checkpoints
from editcaption_mega.files import PARTIAL
from editcaption_mega.settings import JobSettings, SettingsError, save_settings

from .identity import check_identity
from .resume import foreign_entries, read_state, resume_point, tidy


@dataclass(frozen=True)
class Resumed:
    """Where a run goes on; of a new run everything is empty."""

    checkpoint: Path | None = None
    state: dict[str, Any] = field(default_factory=dict)  # of its state.json
    unchecked: list[str] = field(default_factory=list)  # parts of the identity that it does not tell

    @property
    def step(self) -> int:
        return self.state["step"] if self.state else 0


def where_to_start(
    settings: JobSettings,
    parts: dict[str, Any],
    objective_files: tuple[str, ...] = (),
    local: LocalCopies | None = None,
) -> Resumed:
    """The checkpoint to go on from. Collective. objective_files: names that the objective writes into the folder.
    local: copies of its checkpoints' files on the nodes.

    Raises ValueError when the folder is someone else's, the job changed or the checkpoint is damaged."""
    output = Path(settings.training.output)
    unchecked: list[str] = []

    def prepare() -> list[str]:
        return _prepare_folder(output, _may_resume(settings), objective_files)

    for line in platform.from_rank_zero(prepare):
        platform.print_rank_0(line)

    def check(folder: Path, state: dict[str, Any]) -> None:
        unchecked[:] = check_identity(folder, state, parts)

    options = {"verify": settings.checkpoint.verify, "fallback": settings.checkpoint.fallback}
    point = resume_point(output, check, **options, local=local)
    return Resumed(*point, unchecked) if point else Resumed()


def look_where_to_start(settings: JobSettings, parts: dict[str, Any], objective_files: tuple[str, ...] = ()) -> bool:
    """Whether the folder's run would go on. Nothing is written, and a checkpoint is not verified.

    Raises ValueError for what `where_to_start` will refuse, as far as it is seen so."""
    output = Path(settings.training.output)
    check_run_folder(output, _may_resume(settings), objective_files)
    newest = checkpoints(output)[-1:]
    for folder in newest:
        try:
            check_identity(folder, read_state(folder, verify=False), parts)
        except DamagedCheckpointError:
            if not settings.checkpoint.fallback:  # else there may be a sound one before it
                raise
    return bool(newest)


def _may_resume(settings: JobSettings) -> bool:
    """A new run only, the settings may say; its own requeue is none."""
    return settings.checkpoint.resume or job_outcome.has_checkpoint()


def _prepare_folder(output: Path, resume: bool, objective_files: tuple[str, ...]) -> list[str]:
    """`check_run_folder`, and clean it -> lines that say what was there."""
    check_run_folder(output, resume, objective_files)
    return tidy(output)


def check_run_folder(output: Path, resume: bool, objective_files: tuple[str, ...]) -> None:
    """Raise SettingsError for a folder that is not ours to write. resume: it may hold a run to go on with."""
    has_checkpoints = bool(checkpoints(output))
    others = foreign_entries(output, objective_files)
    if others and not (has_checkpoints and resume):
        raise SettingsError(
            f"training.output={output} already holds something else ({others[0]}): choose another folder"
        )
    if has_checkpoints and not resume:
        raise SettingsError(
            f"training.output={output} holds checkpoints of an earlier run and checkpoint.resume is false: choose "
            "another folder, or set checkpoint.resume=true"
        )


def keep_settings(output: Path, settings: JobSettings, step: int) -> None:
    """Write config.yaml. What it said before stays as config.step-XXXXXXXX.yaml, for the steps up to that one."""
    path, new = output / "config.yaml", output / f"config.yaml{PARTIAL}"
    save_settings(settings, new)
    before = output / f"config.step-{step:08d}.yaml"
    # A file of this step is there already when a start in between made no checkpoint: none of its steps is left.
    if step and path.is_file() and path.read_bytes() != new.read_bytes() and not before.exists():
        os.replace(path, before)
    os.replace(new, path)
