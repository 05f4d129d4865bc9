"""Jobs that train adapters on several ranks: the reference that they get for nothing, runs that go on at another layout
and after a kill."""

import json
import os
import shutil
import signal
import subprocess
import sys

import pytest

from editcaption_mega.conversion import StoreReader
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder
from editcaption_mega.settings import AdapterSettings, save_settings
from tests.helpers import ROOT, preference_job, small_job, warm
from tests.parity.matrix import MOVED_BAR, same_tensors

LORA = dict(rank=4, alpha=8.0, modules=["self_attn.*", "mlp.*", "visual.*"])
STEPS, SAVED_AFTER = 4, 2
REFERENCE_BAR = 1e-6
TP2 = dict(tensor_model_parallel_size=2)
PP2 = dict(pipeline_model_parallel_size=2)
EP2 = dict(expert_model_parallel_size=2)
# ranks, parallel settings, model settings, whether a pair is one row with its prompt once
LAYOUTS = {
    "1 rank": (1, {}, {}, True),
    "TP2, full recompute": (2, TP2, {"recompute": "full"}, True),
    "PP2": (2, PP2, {}, True),
    "EP2": (2, EP2, {}, True),
    "DP2, two sequences of a pair": (2, {}, {}, False),
    "PP2 x EP2, full recompute": (4, PP2 | EP2, {"recompute": "full"}, True),
    "TP2 x PP2": (4, TP2 | PP2, {}, True),
}
SLOW = ("PP2 x EP2, full recompute", "TP2 x PP2")
EACH = pytest.mark.parametrize(
    "layout", [pytest.param(name, marks=[pytest.mark.slow] if name in SLOW else []) for name in LAYOUTS]
)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("adapter_layouts")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=16)
    preference_job.write_shards(root / "pairs")
    return root


def settings(base, layout, name, mode="auto"):
    _, parallel, model, shared = LAYOUTS[layout]
    options = dict(reference={"mode": mode}, steps=STEPS, global_batch_size=4)
    job = preference_job.job(base / "model", base / "pairs", folder(base, layout, name), **options)
    job.model.adapters = AdapterSettings(**LORA)
    job.optimizer.learning_rate, job.checkpoint.every = 1e-2, SAVED_AFTER
    job.data.shared_prompt = shared
    for part, values in ((job.parallel, parallel), (job.model, model)):
        for option, value in values.items():
            setattr(part, option, value)
    job.validate()
    return job


def folder(base, layout, name):
    return base / f"{layout} {name}".replace(" ", "_")


def losses(run):
    return [json.loads(line)["loss"] for line in (run / "metrics.jsonl").read_text().splitlines()]


def apart(a, b):
    assert len(a) == len(b) > 0
    return max(abs(x - y) for x, y in zip(a, b, strict=True))


def run(base, layout, jobs):
    configs = []
    for job in jobs:
        configs.append(f"{job.training.output}.yaml")
        save_settings(job, configs[-1])
    warm.run_ranks([sys.executable, "-m", "tests.training.jobs_worker", *configs], LAYOUTS[layout][0], timeout=1200)


@pytest.fixture(scope="module")
def trained(base):
    """Makes the runs of a layout once: with each reference, and from the one rank's checkpoint on."""
    done = set()

    def train(layout):
        if layout in done:
            return
        jobs = [settings(base, layout, mode, mode) for mode in ("auto", "stored")]
        if layout != "1 rank":
            train("1 rank")
            moved = settings(base, layout, "moved")
            shutil.copytree(folder(base, "1 rank", "auto"), moved.training.output)
            shutil.rmtree(checkpoint_folder(moved.training.output, STEPS))
            jobs.append(moved)
        run(base, layout, jobs)
        done.add(layout)

    return train


@EACH
def test_the_model_without_its_adapters_is_the_stored_reference(base, trained, layout):
    trained(layout)
    off, stored = (folder(base, layout, name) for name in ("auto", "stored"))
    assert apart(losses(off), losses(stored)) <= REFERENCE_BAR
    assert abs(losses(off)[-1] - losses(off)[0]) > 1e-3, "policy and reference must differ later"
    assert list(stored.glob("reference*")) and not list(off.glob("reference*"))
    assert apart(losses(off), losses(folder(base, "1 rank", "auto"))) <= MOVED_BAR


@EACH
def test_a_run_goes_on_at_another_layout(base, trained, layout):
    if layout == "1 rank":
        pytest.skip("the origin of the moved runs")
    trained(layout)
    moved, origin = folder(base, layout, "moved"), folder(base, "1 rank", "auto")
    assert "resumed after step 2" in (moved / "log.txt").read_text()
    assert apart(losses(moved), losses(origin)) <= MOVED_BAR
    assert same_tensors(*(checkpoint_folder(run, SAVED_AFTER) for run in (moved, origin)))


def test_a_killed_run_goes_on_with_other_ranks(base):
    """SIGKILL in the middle, then two tensor-parallel ranks."""

    def start(output, ranks, *overrides):
        job = small_job.job(base / "model", base / "shards", base / output, log_every=1)
        job.model.adapters, job.checkpoint.every = AdapterSettings(**LORA), 1
        save_settings(job, base / f"{output}.yaml")
        command = [sys.executable, str(ROOT / "launch/pretrain_sft.sh"), str(base / f"{output}.yaml"), *overrides]
        if ranks > 1:
            command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
        environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
        return warm.Popen(command, stderr=subprocess.STDOUT, env=environment)

    whole = start("whole", 1)
    text, _ = whole.communicate(timeout=600)
    assert whole.returncode == 0, text
    killed = start("killed", 1)
    for line in killed.stdout:
        if line.startswith("step 4/"):
            killed.kill()
            break
    killed.wait()
    assert killed.returncode == -signal.SIGKILL
    again = start("killed", 2, "parallel.tensor_model_parallel_size=2")
    text, _ = again.communicate(timeout=600)
    assert again.returncode == 0 and "resumed after step" in text, text
    assert apart(losses(base / "killed"), losses(base / "whole")) <= MOVED_BAR
    killed, whole = (StoreReader(checkpoint_folder(base / name, 6)).tensors for name in ("killed", "whole"))
    assert {key for key in killed if "random/" not in key} == {key for key in whole if "random/" not in key}
