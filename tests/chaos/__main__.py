"""Kills, signals, full disks, second jobs and flipped bits against small jobs with real ranks: `make chaos`.

    python -m tests.chaos --hits 30 --seed 1 --cases sft1,sft2,dpo1,dpo2 --seconds 600
    python -m tests.chaos --stream --hits 30 --cases sft1,dpo2

A trial starts a job again and again, and each start is hit by something drawn from the seed, until the job is done.
Then its losses must be those of an undisturbed run, and nothing half-written and no process may be left. With --stream
rows are read by processes, some of which are killed alone, each start has other ranks, workers and rows, and what the
run was trained on must be the undisturbed one's, sample by sample.
Exit 1 when anything was lost; one line per kind at the end.
"""

import argparse
import json
import random
import re
import shutil
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

from .faults import KILLS_AND_SIGNALS, KILLS_OF_STREAMS, KINDS, Faults, newest
from .starts import ROOT, Job, orphans, prepare, start
from .stream import Layout, same_losses, trained_on

HITS_PER_TRIAL = 4
STEPS, EVERY = 8, 2  # of a run, and between two checkpoints
SECONDS_TO_END = 10.0  # for a process that has lost its rank, on a busy machine
STEPS_OF_STREAMS, EVERY_OF_STREAMS = 24, 4
PREPARE = """if True:
    import sys
    from pathlib import Path
    from tests.helpers import preference_job, small_job
    from editcaption_mega.settings import save_settings
    folder = Path(sys.argv[1])
    small_job.write_folder(folder / "model")
    small_job.write_shards(folder / "sft-shards", 12)
    preference_job.write_shards(folder / "dpo-shards", 130)
    for kind, module in (("sft", small_job), ("dpo", preference_job)):
        for name in ("whole", "run"):
            for ranks in (1, 2):
                job = module.job(folder / "model", folder / f"{kind}-shards", folder / f"{kind}{ranks}-{name}",
                                 steps=int(sys.argv[2]), global_batch_size=4, log_every=1)
                job.checkpoint.every = int(sys.argv[3])
                save_settings(job, folder / f"{kind}{ranks}-{name}.yaml")
"""


class Case:
    """One kind of job with one number of ranks, and what an undisturbed run of it gives."""

    def __init__(self, folder: Path, name: str, how: list[str], rng: random.Random, stream: bool = False):
        self.folder, self.name, self.how, self.rng, self.stream = folder, name, how, rng, stream
        self.steps, self.every = (STEPS_OF_STREAMS, EVERY_OF_STREAMS) if stream else (STEPS, EVERY)
        self.log = folder / f"{name}.log"
        self.expected, self.samples, self.faults = None, None, None
        self.hits: Counter[str] = Counter()
        self.starts, self.problems, self.lines = 0, [], []
        self.trials, self.largest = 0, 0.0  # difference of a loss, in streams

    def job(self, which: str) -> Job:
        name = f"{self.name}-{which}"
        return Job(self.name[:3], int(self.name[3:]), self.folder / f"{name}.yaml", self.folder / name)

    @property
    def notes(self) -> Path:
        """What ranks say that they trained on."""
        return self.folder / f"{self.name}-samples.jsonl"

    @property
    def environment(self) -> dict[str, str]:
        return {"CHAOS_SAMPLES": str(self.notes)} if self.stream else {}

    def measure(self) -> None:
        """The undisturbed run, started in each way; twice, because the first of all is slower."""
        whole, seconds = self.job("whole"), {}
        overrides = Layout(whole.ranks, 2).overrides if self.stream else []
        for how in (self.how[0], *sorted(set(self.how))):
            shutil.rmtree(whole.output, ignore_errors=True)
            self.notes.unlink(missing_ok=True)
            began = time.monotonic()
            code = start(whole, self.log, how, overrides, **self.environment).wait()
            assert code == 0, self.log.read_text()[-3000:]
            seconds[how] = time.monotonic() - began
        self.expected = losses(whole.output)
        if self.stream:
            self.samples = trained_on(self.notes)
            assert list(self.samples) == list(range(1, self.steps + 1)), f"noted: {self.samples}"
        self.faults = Faults(self.job("run"), self.rng, seconds, self.stream, self.environment)
        print(f"{self.name}: undisturbed, {', '.join(f'{how} {s:.1f} s' for how, s in seconds.items())}", flush=True)

    def trial(self, kinds: list[str]) -> None:
        job = self.job("run")
        shutil.rmtree(job.output, ignore_errors=True)
        self.notes.unlink(missing_ok=True)
        self.faults.published = 0
        self.lines = []
        try:
            for _ in range(HITS_PER_TRIAL):
                kind, how = self.rng.choice(kinds), self.rng.choice(self.how)
                self.starts += 1
                began = time.monotonic()
                hit = self.faults.run(kind, how, self.log)
                left = newest(job.output)
                assert left >= self.faults.published, f"step {self.faults.published} was published, {left} is left"
                where = self.faults.layout if self.stream else how
                self.lines.append(f"{kind} ({where}), {time.monotonic() - began:.1f} s{'' if hit else ', no hit'}")
                if hit:
                    self.hits[kind] += 1
                if newest(job.output) >= self.steps:
                    break
            self.finish(job)
        except (AssertionError, TimeoutError) as problem:
            self.problems.append(f"{self.name} after {'; '.join(self.lines)}: {problem}")
            shutil.copytree(job.output, self.folder / f"bad-{self.name}-{len(self.problems)}", dirs_exist_ok=True)
            print(f"LOST: {self.problems[-1]}", flush=True)
        else:
            print(f"{self.name}: {'; '.join(self.lines)}", flush=True)

    def finish(self, job: Job) -> None:
        self.starts += 1
        self.trials += 1
        before = self.log.stat().st_size if self.log.exists() else 0
        left = newest(job.output)
        code = self.faults.start(self.how[0], self.log).wait()
        said = self.log.read_bytes()[before:].decode()
        assert code == 0, f"the next start ended with {code}: {said[-1500:]}"
        resumed = [int(step) for step in re.findall(r"resumed after step (\d+)", said)]
        # Ranks whose launcher was killed may publish one more before the next start looks.
        newer = bool(resumed) and resumed[0] >= left
        assert newer or left in (0, self.steps), f"step {left} is published, the next start went on from {resumed}"
        made = losses(job.output)
        same = same_losses(made, self.expected) if self.stream else made == self.expected
        assert same, f"other losses: {made}, expected {self.expected}"
        if self.stream:
            samples = trained_on(self.notes)
            assert samples == self.samples, f"other samples: {samples}, expected {self.samples}"
            self.largest = max(self.largest, *(abs(a[0] - b[0]) for a, b in zip(made, self.expected, strict=True)))
        steps = sorted(path.name for path in (job.output / "checkpoints").iterdir() if "damaged" not in path.name)
        last, before = f"step_{self.steps:08d}", f"step_{self.steps - self.every:08d}"
        asked = any(line.startswith("signal to") for line in self.lines)  # to save, behind whichever step
        kept = [before] if not asked else [f"step_{i:08d}" for i in range(self.steps - self.every, self.steps)]
        allowed = [[last], *([each, last] for each in kept)]
        assert steps in allowed, f"checkpoints {steps}, expected {' or '.join(kept)}, and {last}"
        left = sorted(path.name for path in job.output.rglob("*") if "partial" in path.name or path.name == "lock.json")
        assert not left, f"left behind: {left}"
        deadline = time.monotonic() + SECONDS_TO_END
        while (alive := orphans()) and time.monotonic() < deadline:
            time.sleep(0.1)
        assert not alive, f"processes {alive} live on after the next start"


def losses(output: Path) -> list[tuple[float, ...]]:
    rows = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == list(range(1, len(rows) + 1)), [row["step"] for row in rows]
    return [(row["loss"], row["grad_norm"], row["learning_rate"]) for row in rows]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--hits", type=int, default=60, help="kills, signals and other faults that must hit")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--cases", default="sft1,sft2,dpo1,dpo2", help="kind and ranks, with commas")
    parser.add_argument("--kinds", help=f"with commas: {', '.join(KINDS)}; or kills; all that fit, unless given")
    parser.add_argument(
        "--stream",
        action="store_true",
        help="other ranks, worker processes and rows at each start; which samples were trained on; torchrun alone",
    )
    parser.add_argument(
        "--how",
        default="torchrun,launcher",
        help="of torchrun, launcher, exec-torchrun and exec-bash, with commas; named twice: twice as often",
    )
    parser.add_argument("--seconds", type=float, default=900.0, help="no trial begins after that")
    parser.add_argument("--folder", type=Path, help="where the runs are; kept (default: a temporary folder)")
    arguments = parser.parse_args()
    if arguments.stream:
        arguments.how = "torchrun"
    if arguments.kinds is None:
        kinds = list(KILLS_OF_STREAMS) if arguments.stream else [kind for kind in KINDS if kind != "kill a worker"]
    else:
        kinds = list(KILLS_AND_SIGNALS) if arguments.kinds == "kills" else arguments.kinds.split(",")
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="chaos-") as temporary:
        folder = arguments.folder or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        script = [sys.executable, "-c", PREPARE, str(folder)]
        steps = (STEPS_OF_STREAMS, EVERY_OF_STREAMS) if arguments.stream else (STEPS, EVERY)
        subprocess.run([*script, *map(str, steps)], check=True, stderr=subprocess.DEVNULL, cwd=ROOT)
        prepare()
        how = arguments.how.split(",")
        cases = [
            Case(folder, name, how, random.Random(f"{arguments.seed} {name}"), arguments.stream)
            for name in arguments.cases.split(",")
        ]
        for case in cases:
            case.measure()
        while sum(sum(case.hits.values()) for case in cases) < arguments.hits:
            for case in cases:
                if time.monotonic() - began < arguments.seconds:
                    case.trial(kinds)
            if time.monotonic() - began >= arguments.seconds:
                print(f"stopped after --seconds {arguments.seconds:.0f}")
                break
            done = sum(sum(case.hits.values()) for case in cases)
            print(f"{done} of {arguments.hits} after {time.monotonic() - began:.0f} s", flush=True)
    return summary(cases, arguments.seed, time.monotonic() - began)


def summary(cases: list[Case], seed: int, seconds: float) -> int:
    for kind in KINDS:
        counts = {case.name: case.hits[kind] for case in cases if case.hits[kind]}
        if counts:
            print(f"{kind}: {sum(counts.values())} ({', '.join(f'{name} {count}' for name, count in counts.items())})")
    for case in cases:
        if case.stream and case.trials:
            print(f"{case.name}: {case.trials} runs, whose losses differ by at most {case.largest:.1e}")
    hits = sum(sum(case.hits.values()) for case in cases)
    problems = [problem for case in cases for problem in case.problems]
    print(
        f"chaos, seed {seed}: {hits} hits in {sum(case.starts for case in cases)} starts, {seconds:.0f} s; "
        f"{len(problems)} trials lost something, left something or had other losses"
    )
    return 1 if problems or not hits else 0


if __name__ == "__main__":
    sys.exit(main())
