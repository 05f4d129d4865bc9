"""Small jobs on a real Slurm: what a test submits, and what came of it."""

import json
import os
import sys
from pathlib import Path

from editcaption_mega.settings import save_settings
from tests.helpers import ROOT, small_job
from tests.helpers.real_slurm import RealSlurm, SubmittedJob

STEPS, EVERY = 60, 10
SFT = ROOT / "launch/pretrain_sft.sh"


class Trial:
    """One job in a run folder of its own."""

    def __init__(self, slurm: RealSlurm, base: Path, name: str, steps: int = STEPS):
        self.slurm, self.base, self.output = slurm, base, base / f"run-{name}"
        self.config, self.logs = base / f"{name}.yaml", base / "logs"
        self.logs.mkdir(exist_ok=True)
        job = small_job.job(base / "model", base / "shards", self.output, steps=steps, global_batch_size=4, log_every=1)
        job.checkpoint.every = EVERY
        save_settings(job, self.config)

    def submit(self, *options: str, script=SFT, overrides=(), cwd=ROOT, **environment: str) -> SubmittedJob:
        words = [
            f"--nodes={len(self.slurm.nodes)}",
            f"--output={self.logs}/%j.out",
            *options,
            script,
            self.config,
            *overrides,
        ]
        values = {"OMP_NUM_THREADS": "1", "EDITCAPTION_ROOT": ""}
        values |= {"PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}", **environment}
        return self.slurm.submit(*words, cwd=cwd, **values)

    def losses(self) -> list[tuple[float, float]]:
        rows = [json.loads(line) for line in (self.output / "metrics.jsonl").read_text().splitlines()]
        assert [row["step"] for row in rows] == list(range(1, len(rows) + 1))
        return [(row["loss"], row["grad_norm"]) for row in rows]

    def outcome(self) -> dict:
        return json.loads((self.output / "outcome.json").read_text())


def rank_pids(trial: Trial) -> dict[int, int]:
    """Rank -> its process, by its command and environment."""
    pids = {}
    for path in Path("/proc").glob("[0-9]*"):
        try:
            command = (path / "cmdline").read_bytes().split(b"\0")
            environment = dict(e.split(b"=", 1) for e in (path / "environ").read_bytes().split(b"\0") if b"=" in e)
        except OSError:
            continue
        if str(trial.config).encode() in command and b"RANK" in environment and b"-m" not in command:
            pids[int(environment[b"RANK"])] = int(path.name)
    return pids
