"""The batch script of a Slurm job: starts its step, passes on requests to stop, and does what the step's end asks for.

| the ranks ended | what is done |
|---|---|
| finished | the job ends with 0 |
| saved, asked to stop | the job goes back into the queue |
| with a user's error | the job ends with its exit code |
| with a fault, or without a word | started again: in this allocation the first time, then through the queue |
| because a node was lost | started again in this allocation on the nodes that are left, where `nodes` has enough |

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
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

from editcaption_mega import job_outcome
from editcaption_mega.job_outcome import ERROR, FAULT, FINISHED, SAVED, JobOutcome

from .launch_plan import LaunchPlan, lines
from .nodes import FEWEST, SPARES, BatchLayout, choose_nodes
from .slurm_job import SlurmJob
from .watcher import Watcher

RESTARTS = "EDITCAPTION_RESTARTS"
_DEFAULT_RESTARTS = 5
_STARTS = "starts.json"  # what earlier starts of the job came to, for this one to count


def supervise(plan: LaunchPlan) -> int:
    """-> the exit code of the batch script."""
    assert plan.folder is not None
    folder = plan.folder
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
    os.environ[job_outcome.NODES] = str(_starts(folder).get("nodes", ""))
    watcher = Watcher(folder / "watcher.txt")
    try:
        return _start_until_done(plan, int(most), watcher)
    finally:
        watcher.stop()


def _start_until_done(plan: LaunchPlan, most: int, watcher: Watcher) -> int:
    """-> the exit code of the batch script."""
    assert plan.job is not None and plan.folder is not None
    job, folder, step = plan.job, plan.folder, _Step()
    while True:
        if plan.counts.outlives_nodes and job.can_requeue():
            watcher.run(plan.nodes)
        before = job_outcome.reached_so_far(folder)
        job_outcome.clear(folder)
        code = step.run(plan.command)
        ended = job_outcome.read_outcome(folder) or _without_a_word(code, job)
        if ended.kind == FINISHED:
            return 0
        say_now(_sentence(ended))
        if ended.kind == ERROR:
            return ended.exit_code or 1
        if not job.is_running():  # canceled, at its end, or requeued by somebody already
            return 0 if ended.kind == SAVED else 1
        idle = _count_idle(folder, before)
        if idle > most:
            say_now(f"error: {idle} starts in a row got no further ({RESTARTS}={most}): the job ends here")
            return 1
        if ended.kind == SAVED or step.asked or not job.can_requeue():
            return _requeue(job, ended)
        nodes = _nodes_after(plan, ended, idle)
        if not nodes:
            return _requeue(job, ended)
        if list(nodes) != list(plan.nodes):
            plan = plan.on_nodes(nodes)
            os.environ.update(plan.environment)
            say_now(lines(plan)[0])


def _nodes_after(plan: LaunchPlan, ended: JobOutcome, idle: int) -> Sequence[str]:
    """The nodes on which the job is started again after a fault; none where it goes back into the queue. Says which."""
    assert plan.job is not None and plan.folder is not None
    up, counts = plan.job.nodes_up(), plan.counts
    lost = [node for node in plan.nodes if node not in up]
    if not lost and idle <= 1:
        say_now("starting again on the same nodes, from the newest checkpoint")
        return plan.nodes
    why = f"{', '.join(lost)} {'do' if len(lost) > 1 else 'does'} not answer"
    if not lost:  # what failed twice with nothing reached may be the machine of the rank that failed
        if idle > 2 or not counts.spares or ended.node not in up:
            return ()
        why = f"{ended.node} is left out after {idle} starts that got no further"
        up.remove(ended.node)
        counts = replace(counts, fewest=counts.wanted)
    layout = BatchLayout.parse(job_outcome.noted_layout(plan.folder))
    nodes = () if plan.job.lost_its_script() else choose_nodes(up, counts, plan.ranks_per_node, layout)
    if nodes:
        fewer = f"{len(nodes)} nodes instead of {counts.wanted}: " if len(nodes) < counts.wanted else ""
        done = f"starting again on {fewer}{', '.join(nodes)}, from the newest checkpoint"
    else:
        done = f"back into the queue, because the nodes that are left are too few ({SPARES}, {FEWEST})"
    sentence = f"{why}: {done}"
    say_now(sentence)
    os.environ[job_outcome.NODES] = sentence
    _note_starts(plan.folder, nodes=sentence)
    job_outcome.replace_outcome(plan.folder, replace(ended, nodes=sentence))
    return nodes


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

    def __init__(self) -> None:
        self.asked = 0
        self.process: subprocess.Popen[bytes] | None = None
        # Slurm warns the batch script (--signal=B:USR1) or ends it; Ctrl-C is somebody's at a shell in an allocation.
        for number in (signal.SIGUSR1, signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._ask)

    def run(self, command: Sequence[str]) -> int:
        """One start -> srun's exit code."""
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, start_new_session=True)
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
    earlier = 0
    with suppress(ValueError, KeyError, TypeError):
        earlier = int(_starts(folder)["idle"])
    idle = 0 if job_outcome.reached_so_far(folder) != before else earlier + 1
    _note_starts(folder, idle=idle)
    return idle


def _starts(folder: Path) -> dict[str, Any]:
    """What earlier starts of the job have noted."""
    try:
        noted = json.loads((folder / _STARTS).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return noted if isinstance(noted, dict) else {}


def _note_starts(folder: Path, **values: object) -> None:
    with suppress(OSError):
        (folder / _STARTS).write_text(json.dumps({**_starts(folder), **values}) + "\n", encoding="utf-8")


def say_now(line: str) -> None:
    """A line of the job's log, with the time: the ranks' own lines stand between them."""
    print(f"{time.strftime('%H:%M:%S')} {line}", file=sys.stderr, flush=True)
