"""Where a run goes on: its newest checkpoint that is what was written, and a folder without leftovers."""

import os
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from editcaption_mega import platform
from editcaption_mega.conversion import DamagedCheckpointError, LocalCopies, verify_checkpoint
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder, checkpoints, step_folders
from editcaption_mega.conversion.manifest import MANIFEST, MEND, file_problem, first_problem, read_manifest
from editcaption_mega.data.start_tables import HELD_OUT_TABLES, TABLES
from editcaption_mega.files import PARTIAL, read_json_object, remove_partial
from editcaption_mega.job_outcome import NAME as OUTCOME
from editcaption_mega.lock import NAME as LOCK
from editcaption_mega.phases import HEARTBEATS
from editcaption_mega.settings import RUN_IDS

STATE = "state.json"
BAD_STEPS = "bad_steps.json"
BEST = "best.json"
SAMPLES = "samples.jsonl"
SAMPLE_PICTURES = "samples"  # a folder
# What every job writes into its folder. Beside each there may be what a killed one left: NAME.*.partial.
RUN_FILES = (
    "config.yaml",
    "metrics.jsonl",
    "log.txt",
    "logs",
    "tensorboard",
    "wandb",
    "mlflow",
    "profile",
    RUN_IDS,
    "checkpoints",
    TABLES,
    LOCK,
    OUTCOME,
    BAD_STEPS,
    BEST,
    SAMPLES,
    SAMPLE_PICTURES,
)
_EARLIER_SETTINGS = re.compile(r"config\.step-\d{8,}\.yaml")
# Of a lock there may be the rest of a try to take it; those who try hold no lock, and live with its being removed.
_WHOLE = ("config.yaml", "metrics.jsonl", SAMPLES, RUN_IDS, BEST, LOCK)  # files that are written anew as a whole
_LEFTOVER = re.compile(rf"metrics\.tmp|({'|'.join(map(re.escape, _WHOLE))})(\..*)?{re.escape(PARTIAL)}")


class CheckpointState(BaseModel):
    """state.json, in what the trainer uses of it. What is inside `identity` is compared only."""

    model_config = ConfigDict(strict=True, extra="allow")
    step: int = Field(ge=0)
    updates: int = Field(ge=0)
    samples: int = Field(ge=0)
    bad_samples: int = Field(0, ge=0)  # of them, those that were left out
    identity: dict[str, Any] = {}
    settings: dict[str, Any] = {}
    evaluation: dict[str, Any] = {}
    preference: dict[str, Any] = {}  # of earlier versions, which kept the parts of the identity beside each other


def read_state(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """A checkpoint's state.json. Raises ValueError for one without (only weights), DamagedCheckpointError for one whose
    bytes (with `verify`), types or step are not those of this checkpoint."""
    path = folder / STATE
    entry = read_manifest(folder).files.get(STATE)
    if entry is None and not path.is_file():
        raise ValueError(
            f"{folder} has no {STATE}: it holds weights only, from which a new run can start (model.checkpoint), and "
            "cannot be resumed"
        )
    problem = file_problem(folder, STATE, entry) if verify and entry is not None else None
    if problem:
        raise DamagedCheckpointError(f"{problem}; {MEND}")
    try:
        state = read_json_object(path)
        CheckpointState.model_validate(state)
    except ValidationError as error:
        raise DamagedCheckpointError(f"{path} is damaged: {first_problem(error)}; {MEND}") from None
    except ValueError as error:
        raise DamagedCheckpointError(f"{error}; {MEND}") from None
    name = checkpoint_folder("", state["step"]).name
    if folder.name != name:
        raise DamagedCheckpointError(f"{path} is of step {state['step']}: its folder should be named {name}; {MEND}")
    return state


def resume_point(
    output: Path,
    check: Callable[[Path, dict[str, Any]], None],
    *,
    verify: bool,
    fallback: bool,
    local: LocalCopies | None = None,
) -> tuple[Path, dict[str, Any]] | None:
    """The newest checkpoint and its state, or None in a folder without any. Collective; all ranks raise alike.

    `check(folder, state)` raises ValueError when it is of another job. With `verify` every byte is compared with its
    checksum. A damaged one raises DamagedCheckpointError; with `fallback` it is renamed, with a line that says so, when
    one before it is sound, which is taken."""
    folders = platform.from_rank_zero(lambda: checkpoints(output))[::-1]
    problems: list[tuple[Path, DamagedCheckpointError]] = []
    for folder, before in zip(folders, [*folders[1:], None], strict=False):
        try:
            state = platform.from_rank_zero(partial(read_state, folder, verify=verify))
            check(folder, state)
            if verify:
                verify_checkpoint(folder, local=local)
        except DamagedCheckpointError as error:
            if not fallback:
                other = f", or set checkpoint.fallback=true to go on from {before.name} instead" if before else ""
                raise DamagedCheckpointError(f"{error}{other}") from None
            problems.append((folder, error))
            continue
        for damaged, error in problems:
            aside = platform.from_rank_zero(partial(set_aside, damaged))
            platform.print_rank_0(f"{error}. It is kept as {aside.name}; going on from {folder.name}")
        return folder, state
    if problems:
        raise DamagedCheckpointError(f"{problems[0][1]}. No checkpoint before it is sound either")
    return None


def set_aside(folder: Path) -> Path:
    """Give a checkpoint that cannot be used a name under which it is never taken for one."""
    number, name = 1, folder.name + ".damaged"
    while folder.with_name(name).exists():
        number += 1
        name = f"{folder.name}.damaged-{number}"
    return folder.rename(folder.with_name(name))


def foreign_entries(output: Path, objective_files: tuple[str, ...]) -> list[str]:
    """What is in the folder and neither a job's nor what a killed one left.

    objective_files: what the job's objective writes there beside RUN_FILES, whole or as NAME.partial."""
    names = sorted(os.listdir(output)) if output.is_dir() else []
    own_names = (*RUN_FILES, f"{LOCK}.claim", *objective_files, *(f"{name}{PARTIAL}" for name in objective_files))
    ours = re.compile("|".join(map(re.escape, own_names)))
    return [name for name in names if not any(p.fullmatch(name) for p in (ours, _EARLIER_SETTINGS, _LEFTOVER))]


def tidy(output: Path) -> list[str]:
    """Take away what killed jobs left -> a line for each kind. Only for the job that holds the folder."""
    lines, removed = [], []
    (output / OUTCOME).unlink(missing_ok=True)  # how an earlier start ended
    shutil.rmtree(output / "logs" / HEARTBEATS, ignore_errors=True)
    for name in sorted(os.listdir(output)) if output.is_dir() else []:
        if _LEFTOVER.fullmatch(name):
            path = output / name
            shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink()
            removed.append(name)
    for folder in ("checkpoints", TABLES, f"{TABLES}/{HELD_OUT_TABLES}", SAMPLE_PICTURES):
        if (output / folder).is_dir():
            removed += [f"{folder}/{name}" for name in remove_partial(output / folder)]
    if removed:
        lines.append(f"removed what a killed job left half-written: {', '.join(removed)}")
    complete = checkpoints(output)
    for part in (folder for folder in step_folders(output) if folder not in complete):
        lines.append(
            f"checkpoints/{part.name} has no {MANIFEST}, so it is only part of a checkpoint: it is kept as "
            f"{set_aside(part).name}"
        )
    return lines
