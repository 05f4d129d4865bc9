"""Adapters that one job trains one after another: each is the run that a job of its own makes, on weights read once."""

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml

from editcaption_mega import job_outcome
from editcaption_mega.conversion import StoreReader
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder
from editcaption_mega.settings import AdapterSettings, SettingsError, save_settings
from editcaption_mega.training import prepare, run_dpo, run_several, run_sft
from tests.helpers import ROOT, preference_job, small_job, warm

STEPS = 4
# What the runs have of their own: other modules, rates, seeds and lengths, each kind of adapter.
RUNS = {
    "attention": dict(rank=4, modules=["self_attn.*"]),
    "dora": dict(rank=2, alpha=4.0, modules=["self_attn.*", "visual.*"], dora=True, dropout=0.1),
    "experts": dict(rank=4, modules=["mlp.*"], experts="shared", rslora=True),
}
LAYOUTS = {
    "TP2, full recompute": (dict(tensor_model_parallel_size=2), dict(recompute="full")),
    "PP2, two chunks each": (dict(pipeline_model_parallel_size=2, virtual_pipeline_model_parallel_size=2), {}),
    "EP2": (dict(expert_model_parallel_size=2), {}),
    "DP2": ({}, {}),
}
FAST = (("TP2, full recompute", False), ("DP2", True))


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("several_runs")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards", count=16)
    preference_job.write_shards(root / "pairs")
    return root


def settings(base, output, number, adapters, *, dpo=False, parallel=None, model=None):
    """Of one of the runs: each has another seed, rate and number of steps besides."""
    options = dict(steps=STEPS + number % 2, seed=1 + number, global_batch_size=4)
    if dpo:
        job = preference_job.job(base / "model", base / "pairs", base / output, **options)
    else:
        job = small_job.job(base / "model", base / "shards", base / output, **options)
    job.model.adapters = AdapterSettings(**adapters)
    job.optimizer.learning_rate, job.checkpoint.every = 1e-2 / (1 + number), 2
    for part, values in ((job.parallel, parallel), (job.model, model)):
        for option, value in (values or {}).items():
            setattr(part, option, value)
    job.validate()
    return job


def all_settings(base, folder, **options):
    return {
        name: settings(base, f"{folder}/{name}", number, adapters, **options)
        for number, (name, adapters) in enumerate(RUNS.items())
    }


def same_run(run, alone, steps):
    """Losses of each step, and every tensor of the last checkpoint, states of the generators included."""
    losses = [
        [json.loads(line)["loss"] for line in (each / "metrics.jsonl").read_text().splitlines()]
        for each in (run, alone)
    ]
    assert len(losses[0]) == steps and losses[0] == losses[1]
    stores = [StoreReader(checkpoint_folder(each, steps)) for each in (run, alone)]
    assert stores[0].tensors.keys() == stores[1].tensors.keys()
    for key in stores[0].tensors:
        assert torch.equal(*(store.read(key) for store in stores)), key


def test_runs_are_those_of_jobs_of_their_own_and_read_the_weights_once(base, monkeypatch):
    reads, load = [], prepare.load_weights

    def counted(*arguments, **options):
        reads.append(arguments[2])
        load(*arguments, **options)

    monkeypatch.setattr(prepare, "load_weights", counted)
    several = all_settings(base, "together")
    assert run_several(several, run_sft).step == STEPS
    assert len(reads) == 1
    for name, each in all_settings(base, "alone").items():
        run_sft(each)
        same_run(base / "together" / name, base / "alone" / name, each.training.steps)
    said = [(base / "together" / name / "log.txt").read_text() for name in RUNS]
    assert ["weights: those that an earlier run" in text for text in said] == [False, True, True]


@pytest.mark.parametrize(
    ("layout", "dpo"),
    [
        pytest.param(layout, dpo, marks=[] if (layout, dpo) in FAST else [pytest.mark.slow])
        for layout in LAYOUTS
        for dpo in (False, True)
    ],
)
def test_on_two_ranks(base, layout, dpo):
    parallel, model = LAYOUTS[layout]
    folder = f"{layout} {'dpo' if dpo else 'sft'}".replace(" ", "_").replace(",", "")
    words = []
    for kind in ("alone", "together"):
        words += ["--together"] * (kind == "together")
        for name, each in all_settings(base, f"{folder}-{kind}", dpo=dpo, parallel=parallel, model=model).items():
            words.append(str(base / f"{folder}-{kind}-{name}.yaml"))
            save_settings(each, words[-1])
    warm.run_ranks([sys.executable, "-m", "tests.training.jobs_worker", *words], 2, timeout=1800)
    for number, name in enumerate(RUNS):
        same_run(base / f"{folder}-together" / name, base / f"{folder}-alone" / name, STEPS + number % 2)


def test_a_run_that_diverges_ends_alone(base):
    runs = all_settings(base, "diverged")
    runs["attention"].optimizer.learning_rate = 1e38
    runs["attention"].optimizer.clip_grad = 1e38
    with pytest.raises(FloatingPointError, match=r"2 of 3 runs are trained; run attention: step \d: .* is (nan|inf)"):
        run_several(runs, run_sft)
    assert json.loads((base / "diverged/attention/outcome.json").read_text())["kind"] == job_outcome.ERROR
    dora = settings(base, "after_diverged", 1, RUNS["dora"])
    run_sft(dora)
    same_run(base / "diverged/dora", base / "after_diverged", dora.training.steps)


@pytest.mark.parametrize("layout", ["DP2", pytest.param("PP2, two chunks each", marks=pytest.mark.slow)])
def test_a_run_that_diverges_ends_alone_on_two_ranks(base, layout):
    """With gathers and reductions of other ranks under way."""
    folder = f"diverged_{layout}".replace(" ", "_").replace(",", "")
    runs = all_settings(base, folder, parallel=LAYOUTS[layout][0])
    runs["attention"].optimizer.learning_rate = runs["attention"].optimizer.clip_grad = 1e38
    alone = settings(base, f"{folder}-alone", 1, RUNS["dora"], parallel=LAYOUTS[layout][0])
    words = []
    for each in (alone, *runs.values()):
        words.append(f"{each.training.output}.yaml".replace(f"{folder}/", f"{folder}-"))
        save_settings(each, words[-1])
    words.insert(1, "--together")
    with pytest.raises(AssertionError, match="2 of 3 runs are trained"):
        warm.run_ranks([sys.executable, "-m", "tests.training.jobs_worker", *words], 2, timeout=900)
    same_run(base / folder / "dora", base / f"{folder}-alone", alone.training.steps)


def _start(run):
    run.model.adapters.start = run.model.folder


def _modules(run):
    run.model.adapters.modules = ["mlp.nothing"]


def _rows(run):
    run.data.sequence_length = 64


def _shards(run):
    run.data.shards = [f"{run.data.shards[0]}-nowhere"]


def _pairs(run):
    run.data.shards = [run.data.shards[0].replace("shards", "pairs")]


def _held_out(run):
    run.data.held_out, run.evaluation.every = run.data.shards, 2


def _folder(run):
    (Path(run.training.output) / "mine").mkdir(parents=True)


LATER = {
    _start: r"model\.adapters\.start=\S+ cannot be started from: \S+ is neither a checkpoint",
    _modules: r"model\.adapters\.modules: 'mlp\.nothing' matches nothing",
    _rows: r"sample \S+ takes 1\d\d tokens, more than data\.sequence_length=64",
    _shards: r"shards-nowhere: no such folder",
    _pairs: r"sample \S+ has no instruction to train on",
    _held_out: r"sample \S+ of data\.held_out has the pictures of sample",
    _folder: r"training\.output=\S+ already holds something else \(mine\)",
}


@pytest.mark.parametrize("wrong", LATER, ids=lambda change: change.__name__.strip("_"))
def test_what_a_later_run_cannot_be_is_said_before_any(base, wrong):
    folder = f"refused{wrong.__name__}"
    runs = all_settings(base, folder)
    wrong(runs["experts"])
    with pytest.raises(SettingsError, match=f"^run experts: .*{LATER[wrong]}"):
        run_several(runs, run_sft)
    assert not list((base / folder).glob("[ad]*"))


def test_a_later_run_of_another_job_is_said_before_any(base):
    runs = all_settings(base, "another")
    run_sft(runs["experts"])
    runs["experts"].training.seed = 77
    with pytest.raises(
        SettingsError, match=r"^run experts: .* was trained with training\.seed=3, .* has training\.seed=77"
    ):
        run_several(runs, run_sft)
    assert [each.name for each in (base / "another").iterdir()] == ["experts"]


def test_a_run_starts_from_adapters_that_one_before_it_trains(base):
    runs = {name: settings(base, f"chain/{name}", 0, RUNS["attention"]) for name in ("first", "second")}
    runs["second"].model.adapters.start = str(base / "chain/first")
    runs["second"].training.seed = 7
    run_several(runs, run_sft)
    alone = settings(base, "chain_alone", 0, RUNS["attention"])
    alone.model.adapters.start, alone.training.seed = str(base / "chain/first"), 7
    run_sft(alone)
    same_run(base / "chain/second", base / "chain_alone", alone.training.steps)


def test_preference_pairs_of_a_later_run_are_looked_at_before_any(base):
    preference_job.write_shards(base / "untagged", failure_modes=None)
    runs = all_settings(base, "dpo_refused", dpo=True)
    runs["experts"].data.shards = [str(base / "untagged")]
    with pytest.raises(SettingsError, match=r"^run experts: sample \S+ says no failure_modes"):
        run_several(runs, run_dpo)
    assert not (base / "dpo_refused").exists()


@pytest.fixture(scope="module")
def command(base):
    """Starts the job of `runs.yaml` into a folder, with a folder for its outcome."""
    job = settings(base, "unused", 0, RUNS["attention"])
    save_settings(job, base / "job.yaml")
    runs = {
        "first": {"optimizer.learning_rate": 1e-3},
        "second": {"model.adapters.rank": 2, "training.steps": 40, "checkpoint.every": 4},
        "third": {"model": {"adapters": {"dora": True}}},
    }
    (base / "runs.yaml").write_text(yaml.safe_dump(runs, sort_keys=False))

    def start(output):
        (base / f"{output} job").mkdir(exist_ok=True)
        words = ["launch/pretrain_sft.sh", str(base / "job.yaml"), f"training.output={base / output}"]
        words += ["--runs", str(base / "runs.yaml"), "training.log_every=1"]
        environment = {
            **os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1",
            job_outcome.JOB_FOLDER: str(base / f"{output} job"),
        }  # fmt: skip
        return warm.Popen([sys.executable, *words], stderr=subprocess.STDOUT, env=environment, cwd=ROOT)

    return start


@pytest.fixture(scope="module")
def whole(base, command):
    process = command("whole")
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    assert "run third (3 of 3)" in text and "3 of 3 runs are trained" in text
    return base / "whole"


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM], ids=["SIGKILL", "SIGTERM"])
def test_the_same_command_goes_on(base, command, whole, number):
    """A signal in the second run: the first is not trained again, the second goes on, the third is begun."""
    name = f"stopped by {number}"
    process = command(name)
    second = False
    for line in process.stdout:
        second = second or line.startswith("run second")
        if second and line.startswith("step 10/"):
            process.send_signal(number)
            break
    text = process.stdout.read()
    process.wait()
    outcome = job_outcome.read_outcome(base / f"{name} job")
    if number == signal.SIGKILL:
        assert process.returncode == -number and outcome is None, text
    else:
        assert process.returncode == 0 and f"stopped by signal {number.value} in run second" in text, text
        assert outcome.kind == job_outcome.SAVED and "run second" in outcome.message
    assert not (base / name / "third").exists()
    process = command(name)
    text, _ = process.communicate(timeout=900)
    assert process.returncode == 0, text
    assert "has already been trained for 4 steps" in text and "resumed after step" in text
    for run in ("first", "second", "third"):
        same_run(base / name / run, whole / run, 40 if run == "second" else STEPS)


def test_each_run_is_checked(base, command):
    words = ["launch/pretrain_sft.sh", str(base / "job.yaml"), "--runs", str(base / "runs.yaml"), "--check"]
    checked = warm.run([sys.executable, *words], cwd=ROOT)
    assert checked.returncode == 0, checked.stderr
    assert [line for line in checked.stdout.splitlines() if line.startswith("run ")] == [
        "run first:", "run second:", "run third:",
    ]  # fmt: skip
    texts = re.split("^run ", checked.stdout, flags=re.MULTILINE)
    assert ["steps: 40 of" in text for text in texts[1:]] == [False, True, False]
    assert "DoRA" in texts[3] and "DoRA" not in texts[1]
