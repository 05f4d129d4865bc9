"""How jobs end that were started as people start them: `bash launch/..` and torchrun, with two real ranks. Slow."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from editcaption_mega.launcher import children
from editcaption_mega.settings import save_settings
from tests.helpers import ROOT, small_job

SCRIPT = ROOT / "launch/pretrain_sft.sh"
pytestmark = pytest.mark.slow

# What a file system that is slow, and a defect in one rank, look like: Python runs a sitecustomize.py by itself.
SITE = """
import os, sys, time
from tests.helpers import ROOT
fsync = os.fsync
def slow(descriptor):
    if os.environ.get("SLOW_DISK") and "RANK" in os.environ:
        time.sleep(float(os.environ["SLOW_DISK"]))
    return fsync(descriptor)
os.fsync = slow
def hook(event, arguments):
    if event == "open" and os.environ.get("RANK") == os.environ["BROKEN_RANK"]:
        if ".safetensors" in str(arguments[0]) and "step_" in str(arguments[0]):
            raise KeyError("a defect of this rank alone")
if os.environ.get("BROKEN_RANK"):
    sys.addaudithook(hook)
"""


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("endings")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", 12)
    (root / "site").mkdir()
    (root / "site/sitecustomize.py").write_text(SITE)
    return root


class Running:
    """A job of two ranks in `base`/run, from its third step on."""

    def __init__(self, base, command=("bash", str(SCRIPT)), overrides=(), wait_for="step 3/", **environment):
        self.output = base / "run"
        shutil.rmtree(self.output, ignore_errors=True)
        job = small_job.job(base / "model", base / "shards", self.output, steps=100000, global_batch_size=4)
        job.training.log_every = 1
        job.checkpoint.every = 100000
        save_settings(job, base / "config.yaml")
        values = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NPROC_PER_NODE": "2", **environment}
        values["PYTHONPATH"] = f"{base / 'site'}:{ROOT}"
        values["PATH"] = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
        self.log = open(base / "log.txt", "w+")  # noqa: SIM115 (closed at the end)
        self.process = subprocess.Popen(
            [*command, str(base / "config.yaml"), *overrides], stdout=self.log, stderr=self.log,
            env={**os.environ, **values},
        )  # fmt: skip
        while wait_for not in self.text() and self.process.poll() is None:
            time.sleep(0.1)
        self.ranks = children(self.process.pid)

    def text(self) -> str:
        return Path(self.log.name).read_text()

    def end(self) -> int:
        code = self.process.wait(timeout=300)
        self.log.close()
        return code

    def steps(self) -> int:
        return json.loads((self.output / "metrics.jsonl").read_text().splitlines()[-1])["step"]

    def is_saved(self) -> bool:
        return (self.output / f"checkpoints/step_{self.steps():08d}/tensors.json").is_file()


TORCHRUN = (sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2", str(SCRIPT))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT, signal.SIGHUP])
def test_a_signal_to_the_launcher_is_a_checkpoint_and_exit_0(base, number):
    job = Running(base)
    job.process.send_signal(number)
    assert job.end() == 0, job.text()
    assert f"stopped by signal {int(number)} after step {job.steps()}" in job.text() and job.is_saved()
    assert "Traceback" not in job.text() and not (job.output / "lock.json").exists()


def test_a_save_that_takes_longer_than_torchrun_waits(base):
    """torchrun kills ranks 30 s after SIGTERM; every fsync takes 12 s here."""
    job = Running(base, SLOW_DISK="12")
    job.process.send_signal(signal.SIGTERM)
    began = time.monotonic()
    for _ in range(3):  # and people are impatient
        time.sleep(1)
        job.process.send_signal(signal.SIGTERM)
    assert job.end() == 0, job.text()
    assert time.monotonic() - began > 30 and job.is_saved()


def test_the_queue_can_tell_a_stopped_job_from_a_finished_one(base):
    job = Running(base, EDITCAPTION_STOPPED_CODE="75")
    job.process.send_signal(signal.SIGUSR1)
    assert job.end() == 75, job.text()
    job = Running(base, overrides=["training.steps=3"], EDITCAPTION_STOPPED_CODE="75")
    assert job.end() == 0, job.text()


@pytest.mark.parametrize("command", [("bash", str(SCRIPT)), TORCHRUN], ids=["launcher", "torchrun"])
def test_ranks_end_with_their_launcher(base, command):
    """kill -9 of it alone: the ranks save and leave, and the next start goes on from there."""
    job = Running(base, command)
    assert len(job.ranks) == 2
    job.process.kill()
    job.process.wait()
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in job.ranks) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert not any(Path(f"/proc/{pid}").exists() for pid in job.ranks), job.text()
    assert "its launcher is gone: it saves and leaves" in job.text() and job.is_saved()


def test_usr1_to_torchrun_and_its_ranks(base):
    """As `scancel --signal=USR1` delivers it. torchrun itself dies of it; nothing is lost."""
    job = Running(base, TORCHRUN)
    for pid in (job.process.pid, *job.ranks):
        os.kill(pid, signal.SIGUSR1)
    assert job.end() == -signal.SIGUSR1
    deadline = time.monotonic() + 60
    while any(Path(f"/proc/{pid}").exists() for pid in job.ranks) and time.monotonic() < deadline:
        time.sleep(0.2)
    assert job.is_saved(), job.text()


def test_one_rank_says_a_user_s_error_and_the_code_is_kept(base):
    job = Running(base, overrides=["training.global_batch_size=1"])
    assert job.end() == 1
    assert job.text().count("error: ") == 1 and "cannot feed 2 rows" in job.text(), job.text()
    job = Running(base, overrides=["training.globl_batch_size=1"])
    assert job.end() == 2
    assert [line for line in job.text().splitlines() if line] == [
        line for line in job.text().splitlines() if line.startswith("error: ")
    ] and job.text().count("\n") == 1, job.text()


def test_a_defect_of_one_rank_is_in_a_file_and_ends_all(base):
    began = time.monotonic()
    job = Running(base, overrides=["checkpoint.every=2"], BROKEN_RANK="1", wait_for="error: ")
    assert job.end() == 1
    assert time.monotonic() - began < 200
    assert job.text().count("error: ") == 1, job.text()
    assert "KeyError" in job.text() and "logs/rank_0000" in job.text() and "Traceback" not in job.text()
    assert "a defect of this rank alone" in (job.output / "logs/rank_00001.txt").read_text()
    assert "KeyError" in (job.output / "log.txt").read_text()


def test_a_killed_rank_is_told_by_the_launcher(base):
    job = Running(base)
    os.kill(sorted(job.ranks)[1], signal.SIGKILL)
    assert job.end() == 1
    assert "was ended by SIGKILL" in job.text() and "torch/distributed/elastic" not in job.text(), job.text()
