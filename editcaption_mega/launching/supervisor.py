"""The batch script of a Slurm job: starts its step, passes on requests to stop, and does what the step's end asks for.

| the ranks ended | what is done |
|---|---|
| finished | the job ends with 0 |
| saved, asked to stop | the job goes back into the queue |
| with a user's error | the job ends with its exit code |
| with a fault, or without a word | started again: in this allocation the first time, then through the queue |

Whatever is started again without having got any further than the time before, `RESTARTS` times in a row, ends instead.
"""

from __future__ import annotations

import json
import os
import signal
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from editcaption_mega import job_outcome
from editcaption_mega.job_outcome import ERROR, FAULT, FINISHED, SAVED, JobOutcome

from .launch_plan import LaunchPlan, lines
from .slurm_job import SlurmJob

RESTARTS = "EDITCAPTION_RESTARTS"
_DEFAULT_RESTARTS = 5
_STARTS = "starts.json"  # what earlier starts of the job came to, for this one to count


def supervise(plan: LaunchPlan) -> int:
    """-> the exit code of the batch script."""
    assert plan.job is not None and plan.folder is not None
    job, folder = plan.job, plan.folder
    most = os.environ.get(RESTARTS) or str(_DEFAULT_RESTARTS)
    if not most.isdecimal():
        say_now(f"error: {RESTARTS} is {most!r}, expected how often in a row the job may start again, from 0 on")
        return 2
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        say_now(
            f"error: {folder}: {error.strerror}: let sbatch --output name a file in a folder that all nodes can write"
        )
        return 2
    for line in lines(plan):
        say_now(line)
    step = _Step(plan)
    while True:
        before = job_outcome.reached_so_far(folder)
        job_outcome.clear(folder)
        code = step.run()
        ended = job_outcome.read_outcome(folder) or _without_a_word(code, job)
        if ended.kind == FINISHED:
            return 0
        say_now(_sentence(ended))
        if ended.kind == ERROR:
            return ended.exit_code or 1
        if not job.is_running():  # canceled, at its end, or requeued by somebody already
            return 0 if ended.kind == SAVED else 1
        idle = _count_idle(folder, before)
        if idle > int(most):
            say_now(f"error: {idle} starts in a row got no further ({RESTARTS}={most}): the job ends here")
            return 1
        if ended.kind == FAULT and idle <= 1 and not step.asked and job.can_requeue():
            lost = job.lost_nodes()
            if not lost:
                say_now("starting again on the same nodes, from the newest checkpoint")
                continue
            say_now(f"not on the same nodes: {', '.join(lost)} does not answer")
        return _requeue(job, ended)


def _requeue(job: SlurmJob, ended: JobOutcome) -> int:
    if not job.can_requeue():
        say_now("this job is none that Slurm starts again (--requeue of sbatch): the same command goes on")
        return 0 if ended.kind == SAVED else 1
    say_now("requeued: the next start goes on from the newest checkpoint")
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    if job.requeue():
        time.sleep(60)  # until Slurm ends this script: an exit would end the job
    return 0 if ended.kind == SAVED else 1


class _Step:
    """srun, again and again; requests to stop are passed on to the ranks."""

    def __init__(self, plan: LaunchPlan):
        self.plan, self.asked = plan, 0
        self.process: subprocess.Popen[bytes] | None = None
        # Slurm warns the batch script (--signal=B:USR1) or ends it; Ctrl-C is somebody's at a shell in an allocation.
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)

    def run(self) -> int:
        """One start -> srun's exit code."""
        self.process = subprocess.Popen(self.plan.command, stdin=subprocess.DEVNULL, start_new_session=True)
        if self.asked:
            self._pass_on()
        return self.process.wait()

    def _ask(self, number: int, frame: Any) -> None:
        self.asked = number
        self._pass_on()

    def _pass_on(self) -> None:
        # srun hands this one to every task, and would end them for others.
        if self.process is not None:
            with suppress(ProcessLookupError):
                self.process.send_signal(signal.SIGUSR1)


def _without_a_word(code: int, job: SlurmJob) -> JobOutcome:
    """What srun's exit code tells where no rank has said anything."""
    how = f"signal {code - 128}" if code > 128 else f"exit code {code}"
    kind, message = (FAULT, f"the ranks ended without saying how (srun: {how})") if code else (FINISHED, "")
    return JobOutcome(kind, message, host=socket.gethostname(), job=job.number)


def _sentence(ended: JobOutcome) -> str:
    where = f" (rank {ended.rank} on {ended.host})" if ended.kind in (ERROR, FAULT) and ended.time else ""
    return f"{ended.kind}: {ended.message}{where}"


def _count_idle(folder: Path, before: dict[str, Any]) -> int:
    """How many starts in a row, this one included, have reached nothing new."""
    path = folder / _STARTS
    earlier = 0
    with suppress(OSError, ValueError, KeyError, TypeError):
        earlier = int(json.loads(path.read_text(encoding="utf-8"))["idle"])
    idle = 0 if job_outcome.reached_so_far(folder) != before else earlier + 1
    with suppress(OSError):
        path.write_text(json.dumps({"idle": idle}) + "\n", encoding="utf-8")
    return idle


def say_now(line: str) -> None:
    """A line of the job's log, with the time: the ranks' own lines stand between them."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
