"""Held-out pairs in real jobs: the numbers are those of tools/log_probs.py in every layout, and training stays what it
is without them, bit for bit."""

import dataclasses
import json
import math
import sys
from itertools import batched, groupby
from statistics import fmean

import pytest

from editcaption_mega.conversion import StoreReader
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder
from editcaption_mega.data import open_shards
from editcaption_mega.settings import save_settings
from editcaption_mega.training.log_probs import log_probs_of_shards
from tests.helpers import preference_job, small_job, warm
from tests.parity import worker
from tests.parity.matrix import ALL

SIZE = dataclasses.replace(
    small_job.SIZE, num_layers=8, num_heads=8, num_kv_heads=4, experts=8, vision_hidden_size=32, vision_heads=4
)
STEPS, EVERY, HELD_OUT = 5, 2, 13
AT_ONCE = 8
FAST = ["sft/dense/TP2+SP", "sft/moe/PP2 x VPP2", "dpo/moe/TP2 x EP2", "dpo/dense/DP2"]
SLOW = [f"sft/{name}" for name in ALL]
SLOW += [f"dpo/{name}" for name in ALL if not any(word in name for word in ("recompute", "pieces", "apart", "layers"))]
SLOW = [name for name in SLOW if name not in FAST]
TIMES = ("seconds", "per_second", "tflops", "gib")  # what ends so is another number each time


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("held_out")
    small_job.write_folder(root / "moe", SIZE)
    small_job.write_folder(root / "dense", dataclasses.replace(SIZE, experts=0))
    small_job.write_shards(root / "sft")
    small_job.write_shards(root / "sft-held-out", HELD_OUT, seed=9)
    preference_job.write_shards(root / "dpo", 24)
    preference_job.write_shards(root / "dpo-held-out", HELD_OUT, seeds=(11, 12))
    return root


def settings_of(base, name, output):
    """The job of "objective/kind/layout", without an evaluation."""
    objective, kind, layout = name.split("/")
    make = preference_job.job if objective == "dpo" else small_job.job
    job = make(base / kind, base / objective, output, steps=STEPS)
    job.checkpoint.every = 100
    for option, value in worker.LAYOUTS[layout].items():
        setattr(job.model if option.startswith(("recompute", "fused")) else job.parallel, option, value)
    if objective == "dpo" and "EP2" in layout:
        job.reference.mode = "resident"
    return job


@pytest.fixture(scope="module")
def done():
    return set()


@pytest.fixture
def runs(base, done, name):
    """The folders of the job with evaluations and without. Some are run at once, which takes little longer than one."""
    if name not in done:
        batch = next(batch for batch in batches() if name in batch)
        done.update(batch)
        configs = [config for each in batch for config in write_configs(base, each)]
        command = [sys.executable, "-m", "tests.training.jobs_worker", *configs]
        warm.run_ranks(command, ranks_of(name), timeout=1500)
    return [base / "runs" / slug(name, kind) for kind in ("looked", "plain")]


def batches():
    for names in (FAST, SLOW):
        for _, group in groupby(sorted(names, key=ranks_of), ranks_of):
            yield from batched(group, AT_ONCE)


def ranks_of(name):
    return worker.ranks_of(name.split("/")[2])


def slug(name, kind):
    return f"{worker.slug_of(*name.split('/')[1:])}-{name.split('/')[0]}-{kind}"


def write_configs(base, name):
    configs = []
    for kind in ("looked", "plain"):
        output = base / "runs" / slug(name, kind)
        job = settings_of(base, name, output)
        if kind == "looked":
            job.data.held_out = [str(base / f"{name.split('/')[0]}-held-out")]
            job.evaluation.every, job.samples.pairs = EVERY, 0
        output.parent.mkdir(exist_ok=True)
        configs.append(output.with_suffix(".yaml"))
        save_settings(job, configs[-1])
    return configs


def rows(output):
    return [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]


def each(names, slow):
    return [pytest.param(name, id=name, marks=[pytest.mark.slow] * slow) for name in names]


EACH = pytest.mark.parametrize("name", each(FAST, False) + each(SLOW, True))


@EACH
def test_training_is_bitwise_what_it_is_without(runs):
    looked, plain = map(rows, runs)
    assert [row["step"] for row in looked if "held_out/loss" in row] == [2, 4, 5]
    for with_held_out, without in zip(looked, plain, strict=True):
        assert ("evaluation_seconds" in with_held_out) == ("held_out/loss" in with_held_out)
        numbers = {name: value for name, value in without.items() if not name.endswith(TIMES)}
        assert {"loss", "grad_norm"} <= numbers.keys()
        assert numbers == {name: with_held_out[name] for name in numbers}
        others = {name for name in with_held_out if not name.startswith("held_out/")} - {"evaluation_seconds"}
        assert others == without.keys()
    stores = [StoreReader(checkpoint_folder(output, STEPS)) for output in runs]
    assert stores[0].tensors.keys() == stores[1].tensors.keys() and stores[0].tensors
    for key in stores[0].tensors:
        assert stores[0].read(key).equal(stores[1].read(key)), key


@EACH
def test_numbers_are_those_of_log_probs(base, runs, name, tmp_path):
    """At the last step, against one rank that computes the log-probs of that checkpoint."""
    objective, kind, _ = name.split("/")
    last = rows(runs[0])[-1]
    policy = log_probs(base, runs[0], f"{objective}-held-out", tmp_path / "policy.jsonl")
    if objective == "sft":
        tokens = [value for row in policy for value in row["token_log_probs"]]
        assert last["held_out/loss"] == pytest.approx(-fmean(tokens), abs=1e-6)
        return
    reference = log_probs(base, base / kind, f"{objective}-held-out", tmp_path / "reference.jsonl")
    pairs = open_shards(base / f"{objective}-held-out")
    modes = [("", *pairs.pair(i).failure_modes) for i in range(len(pairs))]
    rewards = [
        [0.1 * (ours[answer]["log_prob"] - theirs[answer]["log_prob"]) for answer in ("chosen", "rejected")]
        for ours, theirs in zip(policy, reference, strict=True)
    ]
    for mode in ("", "orientation", "viewpoint", "detail"):
        of_mode = [reward for reward, its in zip(rewards, modes, strict=True) if mode in its]
        margins = [chosen - rejected for chosen, rejected in of_mode]
        prefix = f"held_out/{mode}/" if mode else "held_out/"
        assert last[f"{prefix}reward_margin"] == pytest.approx(fmean(margins), abs=1e-5)
        assert last[f"{prefix}reward_accuracy"] == fmean(margin > 0 for margin in margins)
        assert last[f"{prefix}loss"] == pytest.approx(fmean(math.log1p(math.exp(-m)) for m in margins), abs=1e-6)
        assert mode == "" or last[f"{prefix}pairs"] == len(of_mode) > 0
    assert max(map(abs, sum(rewards, []))) > 1e-3, "training must have moved the policy"


def log_probs(base, weights, shards, output):
    settings = small_job.job(base / "moe", base / shards, base / "-")
    settings.model.checkpoint, settings.model.folder = str(weights), "-"
    log_probs_of_shards(settings, output, with_tokens=False)
    head, *lines = [json.loads(line) for line in output.read_text().splitlines()]
    assert len(lines) == HELD_OUT
    return lines
