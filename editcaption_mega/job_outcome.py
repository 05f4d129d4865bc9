"""How a job ended: `outcome.json`, which its ranks write and whoever started them acts on.

The file lies in the run folder, once that is the job's, and in the folder that the environment's `JOB_FOLDER` names:
the place where the batch script looks, which knows no settings. Of ranks that end alike the first one writes it;
without a file the ranks were ended from outside, which is a fault. Needs no more than Python 3.9 itself (`launching`).
"""

from __future__ import annotations

import errno
import json
import os
import socket
import time
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any

JOB_FOLDER = "EDITCAPTION_JOB_FOLDER"
NAME = "outcome.json"
PROGRESS = "progress.json"
LAYOUT = "layout.json"
NODES = "EDITCAPTION_NODES"  # the batch script's sentence on nodes that were lost, for the outcome of its ranks

FINISHED = "finished"  # all that this start was asked for is done
SAVED = "saved"  # asked to stop; the same command goes on, and nothing is lost
ERROR = "error"  # the user's to mend: another start would end the same way
FAULT = "fault"  # a defect, a machine, the network: another start may well go on

# Errors of a file system or a network that may be there again at the next start.
_PASSING = {
    errno.EIO, errno.ESTALE, errno.ETIMEDOUT, errno.ENOTCONN, errno.ECONNRESET, errno.ECONNREFUSED, errno.EHOSTDOWN,
    errno.EHOSTUNREACH, errno.ENETDOWN, errno.ENETUNREACH, errno.EREMOTEIO, errno.ENOLINK, errno.ESHUTDOWN,
}  # fmt: skip


@dataclass(frozen=True)
class JobOutcome:
    """How one start of a job ended."""

    kind: str  # FINISHED | SAVED | ERROR | FAULT
    message: str  # one sentence
    step: int = 0  # steps done, of FINISHED and SAVED; a checkpoint has them
    signal: int = 0  # that asked for the stop, of SAVED
    exit_code: int = 0  # of the rank
    rank: int = 0
    host: str = ""
    job: str = ""  # Slurm's, "" outside
    time: str = ""  # local
    node: str = ""  # Slurm's name of the host
    nodes: str = ""  # which node was lost, the last time that this happened to the job, and what was done

    @classmethod
    def here(cls, kind: str, message: str, **more: int) -> JobOutcome:
        """Of this rank, at this moment."""
        now = time.strftime("%Y-%m-%d %H:%M:%S %z")
        rank, job = int(os.environ.get("RANK", "0")), os.environ.get("SLURM_JOB_ID", "")
        node, nodes = os.environ.get("SLURMD_NODENAME", ""), os.environ.get(NODES, "")
        host = socket.gethostname()
        return cls(kind, message, **{"rank": rank, **more}, host=host, job=job, time=now, node=node, nodes=nodes)

    @classmethod
    def of_error(cls, error: BaseException) -> JobOutcome:
        """What an error that ends a rank means for the job. An error may know it itself: its `outcome`."""
        expected = isinstance(error, (ValueError, OSError, FloatingPointError)) or hasattr(error, "exit_code")
        passing = isinstance(error, OSError) and error.errno in _PASSING
        kind = getattr(error, "outcome", ERROR if expected and not passing else FAULT)
        words = " ".join(str(error).split()) or type(error).__name__
        message = words if expected else f"unexpected {type(error).__name__}: {words}"
        return cls.here(kind, message, exit_code=getattr(error, "exit_code", 1))


def report(outcome: JobOutcome, *folders: Path, overrule: bool = False, of_job: bool = True) -> None:
    """Write it into these folders and the environment's, where there is none yet. overrule: in place of a fault, which
    this is the cause of. So does a good end: the fault is then of a rank that an earlier start has left on a lost node.
    of_job: false for the end of a run that is not the job's: these folders alone.
    A disk that is full does not hide how the job ended: nothing is raised."""
    overrule = overrule or outcome.kind in (FINISHED, SAVED)
    for folder in (*folders, *(_job_folder() if of_job else ())):
        with suppress(OSError):
            previous = read_outcome(folder) if overrule else None
            with open(folder / NAME, "w" if previous and previous.kind == FAULT else "x", encoding="utf-8") as file:
                file.write(_text(outcome))


def replace_outcome(folder: Path, outcome: JobOutcome) -> None:
    """Write it into the folder in place of what its ranks have said, or have not; nothing is raised."""
    with suppress(OSError):
        (folder / NAME).write_text(_text(outcome), encoding="utf-8")


def _text(outcome: JobOutcome) -> str:
    return json.dumps(asdict(outcome), indent=1) + "\n"


def read_outcome(folder: Path) -> JobOutcome | None:
    """What the folder says; None where nothing stands, or half of it."""
    values = _read(folder / NAME)
    if not values or values.get("kind") not in (FINISHED, SAVED, ERROR, FAULT):
        return None
    known = {field.name for field in fields(JobOutcome)}
    return JobOutcome(**{"message": "", **{name: value for name, value in values.items() if name in known}})


def clear(*folders: Path) -> None:
    """A new start has not ended in any way yet."""
    for folder in folders:
        (folder / NAME).unlink(missing_ok=True)


def note_progress(**reached: int) -> None:
    """What a job has that its next start need not do again, such as checkpoint=120, for whoever started it: a job that
    fails again and again and reaches nothing is not started for ever. Rank 0."""
    for folder in _job_folder():
        _note(folder / PROGRESS, {**_read(folder / PROGRESS), **reached})


def reached_so_far(folder: Path) -> dict[str, Any]:
    """What `note_progress` has written there."""
    return _read(folder / PROGRESS)


def note_layout(**layout: int) -> None:
    """In which numbers of ranks the job can go on, for whoever started it: launching/nodes.py reads it. Rank 0."""
    for folder in _job_folder():
        _note(folder / LAYOUT, layout)


def noted_layout(folder: Path) -> dict[str, Any]:
    """What `note_layout` has written there."""
    return _read(folder / LAYOUT)


def has_checkpoint() -> bool:
    """Whether an earlier start of this very job has written one, so that this one only goes on."""
    return any("checkpoint" in reached_so_far(folder) for folder in _job_folder())


def _job_folder() -> Iterable[Path]:
    return [Path(os.environ[JOB_FOLDER])] if os.environ.get(JOB_FOLDER) else []


def _note(path: Path, values: dict[str, Any]) -> None:
    with suppress(OSError):
        temporary = path.with_name(f"{path.name}.partial")
        temporary.write_text(json.dumps(values) + "\n", encoding="utf-8")
        os.replace(temporary, path)


def _read(path: Path) -> dict[str, Any]:
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return values if isinstance(values, dict) else {}
