"""The checkpoints of a run folder: which folders are some, and which is the newest."""

import os
import re
import secrets
import shutil
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from editcaption_mega.data.text.side_files import CONFIG
from editcaption_mega.lock import NAME as LOCK_FILE
from editcaption_mega.lock import FolderLock, is_held
from editcaption_mega.settings import SettingsError, hub_hint

from .manifest import MANIFEST

_READERS = "readers"  # folder of a checkpoint, with a lock for each process that reads it while its run goes on
_STEP = re.compile(r"step_(\d{8,})")


def checkpoint_folder(output: str | Path, step: int) -> Path:
    return Path(output) / "checkpoints" / f"step_{step:08d}"


def step_folders(output: str | Path) -> list[Path]:
    """Folders of a run's checkpoints under their final names, oldest first, whole or not."""
    folder = Path(output) / "checkpoints"
    names = [name for name in os.listdir(folder) if _STEP.fullmatch(name)] if folder.is_dir() else []
    return [folder / name for name in sorted(names, key=step_of)]


def checkpoints(output: str | Path) -> list[Path]:
    """The checkpoints of a run, oldest first. One without a manifest was never finished, or half removed."""
    return [folder for folder in step_folders(output) if (folder / MANIFEST).is_file()]


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint folder, or the newest one of a run folder. Raises SettingsError when there is none."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    of_run = checkpoints(path)
    if not of_run:
        hint = hub_hint(path)
        if (path / CONFIG).is_file():
            hint = "; it is a Hugging Face folder: give it as model.folder, or make a checkpoint of it (hf_to_megatron)"
        raise SettingsError(
            f"{path} is neither a checkpoint (no {MANIFEST}) nor a run folder with a complete one{hint}"
        )
    return of_run[-1]


@contextmanager
def held_checkpoint(folder: Path) -> Iterator[None]:
    """While the block runs, a run that goes on does not remove this checkpoint as an old one (`is_read`).

    Where this user may not write, nothing holds it. Raises SettingsError for one that was removed just before."""
    lock = FolderLock(folder / _READERS / f"{os.getpid()}-{secrets.token_hex(4)}", "export")
    try:
        _forget_dead_readers(folder)
        lock.acquire()
    except OSError:
        yield
        return
    try:
        if not (folder / MANIFEST).is_file():
            raise SettingsError(f"{folder} was removed just now by the run that wrote it: start the command again")
        yield
    finally:
        lock.release()
        with suppress(OSError):  # somebody else reads, or the checkpoint is there
            (folder / _READERS).rmdir()
            folder.rmdir()


def _forget_dead_readers(folder: Path) -> None:
    """Remove what exports left that were killed. Raises OSError."""
    for reader in (folder / _READERS).glob("*"):
        if (reader / LOCK_FILE).is_file() and not is_held(reader):
            shutil.rmtree(reader, ignore_errors=True)


def is_read(folder: Path) -> bool:
    """Whether a process reads the checkpoint and asks that it stays. Raises OSError."""
    return any(is_held(reader) for reader in (folder / _READERS).glob("*"))


def step_of(name: str) -> int:
    match = _STEP.fullmatch(name)
    assert match is not None, f"{name} is no folder of a step"
    return int(match[1])
