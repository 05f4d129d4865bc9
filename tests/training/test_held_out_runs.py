"""Jobs that hold pairs out, as their users run them: cut, killed and gone on with, ended early, with a best checkpoint,
and given things that cannot work."""

import json
import os
import shutil
import signal
import subprocess
import sys
from statistics import fmean

import pytest

from editcaption_mega.conversion import StoreReader
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder, checkpoints, step_of
from editcaption_mega.data import open_shards
from editcaption_mega.settings import SettingsError, save_settings
from editcaption_mega.training import run_dpo, run_sft
from editcaption_mega.training.log_probs import log_probs_of_shards
from editcaption_mega.training.session import Ending
from tests.helpers import ROOT, preference_job, small_job, warm

LAUNCH = ROOT / "launch/pretrain_sft.sh"
TIMES = ("seconds", "per_second", "tflops", "gib")  # what ends so is another number each time


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("held_out_runs")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards")
    small_job.write_shards(root / "others", 6, seed=9)
    preference_job.write_shards(root / "pairs")
    return root


def job(base, output, *, learning_rate=1e-3, **training):
    """A quarter of the pairs held out, looked at after every second step; checkpoints then, too."""
    settings = small_job.job(base / "model", base / "shards", output, **training)
    settings.data.held_out_share, settings.evaluation.every, settings.checkpoint.every = 0.25, 2, 2
    settings.optimizer.learning_rate, settings.samples.pairs = learning_rate, 0  # held_out_texts has tests of its own
    return settings


def rows(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == list(range(1, len(lines) + 1))
    return lines


def numbers(output):
    return [{name: value for name, value in row.items() if not name.endswith(TIMES)} for row in rows(output)]


def same_checkpoints(first, second, step=6):
    stores = [StoreReader(checkpoint_folder(output, step)) for output in (first, second)]
    assert stores[0].tensors.keys() == stores[1].tensors.keys() and stores[0].tensors
    return all(stores[0].read(key).equal(stores[1].read(key)) for key in stores[0].tensors)


def held_out_losses(output):
    return {row["step"]: row["held_out/loss"] for row in rows(output) if "held_out/loss" in row}


@pytest.fixture(scope="module")
def whole(base):
    """An uninterrupted run of six steps."""
    assert run_sft(job(base, base / "whole")) == Ending(6)
    return base / "whole"


def test_the_held_out_pairs_are_never_trained_on(base, whole, tmp_path):
    """What a job knows of its samples, and what log-probs of the last checkpoint say of the others."""
    settings = small_job.job(base / "model", base / "shards", base / "-")
    settings.model.checkpoint, settings.model.folder = str(whole), "-"
    log_probs_of_shards(settings, tmp_path / "all.jsonl", with_tokens=False)
    _, *lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    text = (whole / "log.txt").read_text()
    assert "18 samples, 6 steps" in text
    assert "6 pairs are held out (data.held_out_share=0.25) from 18 that are trained on, and evaluated every 2" in text
    held_out = held_out_ids(base)
    assert len(held_out) == 6
    tokens = [value for line in lines if line["id"] in held_out for value in line["token_log_probs"]]
    assert held_out_losses(whole)[6] == pytest.approx(-fmean(tokens), abs=1e-6)


def held_out_ids(base):
    from editcaption_mega.data.batching.job_samples import JobSamples

    ids = set(JobSamples.held_out(job(base, base / "-").data).read().ids)
    assert ids < set(open_shards(base / "shards").ids)
    return ids


def test_a_run_that_is_cut_between_evaluations_is_the_same(base, whole, tmp_path):
    output = tmp_path / "cut"
    assert run_sft(job(base, output, stop_after=3)) == Ending(3)
    assert run_sft(job(base, output)) == Ending(6)
    assert numbers(output) == numbers(whole) and list(held_out_losses(output)) == [2, 4, 6]
    assert same_checkpoints(output, whole)


def test_a_killed_run_goes_on_bitwise(base, whole, tmp_path):
    output = tmp_path / "killed"
    config = tmp_path / "job.yaml"
    save_settings(job(base, output), config)
    process = warm.Popen(
        [sys.executable, str(LAUNCH), str(config), "training.log_every=1"],
        stderr=subprocess.STDOUT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"},
    )  # fmt: skip
    for line in process.stdout:
        if line.startswith("step 5/"):
            process.kill()
            break
    process.stdout.close()
    assert process.wait() == -signal.SIGKILL
    assert run_sft(job(base, output)) == Ending(6)
    assert numbers(output) == numbers(whole) and same_checkpoints(output, whole)


def test_another_cut_is_another_run(base, whole):
    for name, value in (("held_out_share", 0.5), ("held_out_seed", 1)):
        settings = job(base, whole)
        setattr(settings.data, name, value)
        with pytest.raises(ValueError, match=f"was trained with .*data.{name}=.* an exact resume needs the same"):
            run_sft(settings)
    settings = job(base, whole)
    settings.data.held_out_share, settings.evaluation.every = 0.0, 0
    with pytest.raises(ValueError, match=r"with shards=.*, data.held_out_share=0.25, this job has"):
        run_sft(settings)


def test_pairs_may_be_held_out_and_not_looked_at(base, tmp_path):
    settings = job(base, tmp_path / "run", steps=1)
    settings.evaluation.every = 0
    run_sft(settings)
    assert "and not evaluated (evaluation.every=0)" in (tmp_path / "run/log.txt").read_text()
    assert not held_out_losses(tmp_path / "run")


def test_the_best_checkpoint_stays(base, tmp_path, capsys):
    """At a rate at which it gets worse, the first one is the best, and two newer ones do not push it out."""
    output = tmp_path / "best"
    settings = job(base, output, learning_rate=0.05, steps=8)
    settings.checkpoint.keep_best, settings.checkpoint.keep = True, 1
    run_sft(settings)
    losses = held_out_losses(output)
    best = min(losses, key=losses.get)
    assert best < 6, "or this shows nothing"
    said = json.loads((output / "best.json").read_text())
    assert said == {
        "metric": "held_out/loss", "step": best, "value": losses[best], "checkpoint": f"checkpoints/step_{best:08d}",
    }  # fmt: skip
    assert [step_of(folder.name) for folder in checkpoints(output)] == [best, 8]
    assert f"checkpoint of step {best} is the best so far: held_out/loss {losses[best]:.4f}" in capsys.readouterr().out
    settings.training.steps = 10
    run_sft(settings)
    again = held_out_losses(output)
    assert min(again, key=again.get) == best, "or this shows nothing"
    assert [step_of(folder.name) for folder in checkpoints(output)] == [best, 10]
    assert json.loads((output / "best.json").read_text()) == said


def test_a_better_checkpoint_takes_the_place(base, tmp_path):
    output = tmp_path / "better"
    settings = job(base, output)
    settings.checkpoint.keep_best, settings.checkpoint.keep = True, 1
    run_sft(settings)
    losses = held_out_losses(output)
    assert losses[6] == min(losses.values()), "or this shows nothing"
    assert json.loads((output / "best.json").read_text())["step"] == 6
    assert [step_of(folder.name) for folder in checkpoints(output)] == [6]


def test_a_best_checkpoint_that_somebody_removed_is_said(base, tmp_path):
    output = tmp_path / "gone"
    settings = job(base, output, learning_rate=0.05, steps=4)
    settings.checkpoint.keep_best = True
    run_sft(settings)
    best = json.loads((output / "best.json").read_text())["step"]
    assert best == 2, "or this shows nothing"
    shutil.rmtree(checkpoint_folder(output, best))
    settings.training.steps = 5
    run_sft(settings)
    assert "the best checkpoint so far, that of step 2, is gone" in (output / "log.txt").read_text()
    assert json.loads((output / "best.json").read_text())["step"] == 5


def test_a_run_ends_when_it_has_seen_enough(base, tmp_path, capsys):
    output = tmp_path / "early"

    def settings(patience, steps=20):
        made = job(base, output, learning_rate=0.05, steps=steps)
        made.evaluation.patience = patience
        return made

    assert run_sft(settings(1)) == Ending(4)
    losses = held_out_losses(output)
    assert losses[4] > losses[2] and list(losses) == [2, 4]
    text = (output / "log.txt").read_text()
    assert "ended early: no better held_out/loss since step 2" in text and "stopped by" not in capsys.readouterr().out
    assert checkpoint_folder(output, 4).is_dir()
    assert json.loads((output / "outcome.json").read_text())["kind"] == "finished"
    # The same command does not go on, and says how it would.
    assert run_sft(settings(1)) == Ending(4)
    assert "nothing to do. It ended early" in (said := capsys.readouterr().out) and "raise it above 1" in said
    assert len(rows(output)) == 4
    assert run_sft(settings(0, steps=6)) == Ending(6)


def test_dpo_chooses_by_the_rewards(base, tmp_path):
    settings = preference_job.job(base / "model", base / "pairs", tmp_path / "dpo", steps=4)
    settings.data.held_out_share, settings.evaluation.every, settings.checkpoint.every = 0.25, 2, 2
    settings.evaluation.metric, settings.checkpoint.keep_best = "held_out/reward_margin", True
    run_dpo(settings)
    margins = {row["step"]: row["held_out/reward_margin"] for row in rows(tmp_path / "dpo") if row["step"] in (2, 4)}
    best = json.loads((tmp_path / "dpo/best.json").read_text())
    assert best["value"] == max(margins.values()) and margins[best["step"]] == best["value"]
    files = {path.name for path in (tmp_path / "dpo").iterdir()}
    assert {"reference.jsonl", "reference_held_out.jsonl"} <= files
    lines = (tmp_path / "dpo/reference_held_out.jsonl").read_text().splitlines()
    assert len(lines) == 1 + 4
    # A start that goes on reads it again; the weights that it came from may be gone.
    settings.training.steps, settings.data.workers = 6, 1
    run_dpo(settings)
    assert (tmp_path / "dpo/reference_held_out.jsonl").read_text().splitlines() == lines


def test_what_is_no_metric_of_the_job_is_refused_before_work(base, tmp_path):
    settings = job(base, tmp_path / "run")
    settings.evaluation.metric = "held_out/reward_margin"
    with pytest.raises(SettingsError, match="is none by which this job can choose: expected held_out/loss"):
        run_sft(settings)
    assert not (tmp_path / "run").exists()


def test_pairs_that_are_trained_on_cannot_be_held_out(base, tmp_path):
    settings = job(base, tmp_path / "run")
    settings.data.held_out_share, settings.data.held_out = 0.0, [str(base / "others"), str(base / "shards")]
    with pytest.raises(SettingsError, match=r"of data.held_out has the pictures of sample .* as do 23 more of 30"):
        run_sft(settings)


def test_held_out_pairs_that_cannot_be_used_are_refused_before_the_first_step(base, tmp_path):
    """Pairs of instructions alone, in a job on preferences."""
    settings = preference_job.job(base / "model", base / "pairs", tmp_path / "dpo", steps=4)
    settings.data.held_out, settings.evaluation.every = [str(base / "others")], 2
    with pytest.raises(ValueError, match="has no chosen and rejected answers to compare"):
        run_dpo(settings)
    assert not (tmp_path / "dpo/metrics.jsonl").exists()
