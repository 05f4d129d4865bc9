"""Watches the node of a job's batch script from another node: `python -m editcaption_mega.launching.watcher`.

A job that outlives its nodes (sbatch --no-kill) outlives this one, too, and then nobody is left to start it again or to
end it: Slurm keeps its other nodes, idle, until the time limit.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path

from .slurm_job import SlurmJob

_SECONDS = 20.0


class Watcher:
    """The step of the watching process; what Slurm says of it goes into `log`."""

    def __init__(self, log: Path) -> None:
        self.log = log
        self.process: subprocess.Popen[bytes] | None = None

    def run(self, nodes: Sequence[str]) -> None:
        """Have it run on the last of these nodes; on none where the batch script's is the only one."""
        if len(nodes) < 2 or (self.process and self.process.poll() is None):
            return
        # Beside the ranks, with nothing of its own.
        step = ["srun", "--overlap", "--nodes=1", "--ntasks=1", f"--nodelist={nodes[-1]}", "--cpus-per-task=1"]
        step += ["--mem=0", "--gres=none", "--cpu-bind=none", "--quiet", "--export=ALL"]
        command = [*step, sys.executable, "-m", "editcaption_mega.launching.watcher"]
        with open(self.log, "ab") as log:
            self.process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )

    def stop(self) -> None:
        if self.process:
            self.process.terminate()  # srun ends its step
            with suppress(subprocess.TimeoutExpired):
                self.process.wait(10)


def watch(job: SlurmJob) -> None:
    """Until the job ends, which ends this step; or bring it back into the queue when its batch script is lost."""
    while True:
        time.sleep(_SECONDS)
        if job.lost_its_script():
            job.requeue()


if __name__ == "__main__":
    this = SlurmJob.from_environment(os.environ)
    if this:
        watch(this)
