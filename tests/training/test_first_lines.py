"""Jobs that say what they will see of their data and at which rates, and do it: mixtures, parts of sets, schedules."""

import dataclasses
import json
import os
import subprocess
import sys
from collections import Counter

import pytest

from editcaption_mega.commands import log_probs
from editcaption_mega.data.batching.loader import StepStream
from editcaption_mega.settings import SettingsError, save_settings
from editcaption_mega.training import run_dpo, run_sft
from tests.helpers import ROOT, preference_job, small_job, warm


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("lines")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "many", 24, seed=3)
    small_job.write_shards(root / "few", 5, seed=3)  # the first ones of `many`, under the same ids
    preference_job.write_shards(root / "preference", 12)
    return root


def mixed(base, output, **training):
    job = small_job.job(base / "model", base / "many", output, **training)
    job.data = dataclasses.replace(
        job.data, shards=[str(base / "many"), str(base / "few")], weights=[0.75, 0.25], id_prefixes=["", "few-"]
    )
    return job


@pytest.fixture(scope="module")
def whole(base):
    """An uninterrupted run on the mixture: 6 steps of 8 samples. -> its numbers, and the ids of each step."""
    steps = []
    samples = StepStream.samples

    def noted(stream, number):
        of_step = samples(stream, number)
        steps.append([stream.reader.dataset.id(i) for i in of_step])
        return of_step

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(StepStream, "samples", noted)
        run_sft(mixed(base, base / "whole"))
    return numbers(base / "whole"), steps[1:]  # the first was looked at for the lines


def numbers(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    return [(line["loss"], line["grad_norm"], line["learning_rate"]) for line in lines]


def test_a_mixture_trains_on_what_it_says(base, whole):
    log = (base / "whole/log.txt").read_text()
    assert "29 samples, 6 steps of 8 samples: mixed by data.weights" in log
    assert f"{base}/many: 24 samples, 36 of the run's 48 (75.0%), 1.5 passes over them" in log
    assert f"{base}/few: 5 samples, 12 of the run's 48 (25.0%), 2.4 passes over them" in log
    steps = whole[1]
    assert len(steps) == 6 and all(sum(name.startswith("few-") for name in of_step) == 2 for of_step in steps)
    seen = Counter(name for of_step in steps for name in of_step)
    few = [count for name, count in seen.items() if name.startswith("few-")]
    many = [count for name, count in seen.items() if not name.startswith("few-")]
    assert sorted(few) == [2, 2, 2, 3, 3] and sorted(many) == [1] * 12 + [2] * 12


def test_a_mixture_goes_on_at_another_number_of_ranks(base, whole, tmp_path):
    run_sft(mixed(base, tmp_path / "cut", stop_after=2))
    save_settings(mixed(base, tmp_path / "cut"), tmp_path / "job.yaml")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = warm.Popen(
        [*command, str(ROOT / "launch/pretrain_sft.sh"), str(tmp_path / "job.yaml")],
        stderr=subprocess.STDOUT, env=environment,
    )  # fmt: skip
    text, _ = done.communicate(timeout=300)
    assert done.returncode == 0, text
    assert "resumed after step 2" in text
    for ours, theirs in zip(numbers(tmp_path / "cut"), whole[0], strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


@pytest.mark.parametrize(
    "change, words",
    [
        ({"weights": [0.5, 0.5]}, r"data.weights=\[0.75, 0.25\], this job has data.weights=\[0.5, 0.5\]"),
        ({"id_prefixes": ["a-", "few-"]}, "shards comes from data.shards, data.id_prefixes, .* and data.max_samples"),
        ({"max_samples": 20}, "data.max_samples=0, this job has .*data.max_samples=20"),
    ],
)
def test_another_mixture_is_another_run(base, whole, change, words):
    job = mixed(base, base / "whole")
    job.data = dataclasses.replace(job.data, **change)
    with pytest.raises(ValueError, match=words):
        run_sft(job)


def test_several_folders_without_weights_are_one_set(base, tmp_path, capsys):
    job = mixed(base, tmp_path / "run", steps=1)
    job.data = dataclasses.replace(job.data, weights=[])
    run_sft(job)
    text = capsys.readouterr().out
    assert "29 samples, 1 step of 8 samples: 0.276 passes over them" in text
    assert f"{base}/few: 5 samples, about 1 of the run's 8 (12.5%), 0.2 passes over them" in text


def test_a_step_that_repeats_samples_says_so(base, tmp_path, capsys):
    run_sft(mixed(base, tmp_path / "run", steps=1, global_batch_size=24))
    text = capsys.readouterr().out
    assert f"note: one step has each sample of {base}/few about 1.2 times: lower training.global_batch_size or" in text


def test_what_memory_depends_on_is_said(base, whole, tmp_path, capsys):
    log = (base / "whole/log.txt").read_text()
    assert "micro-batches are rows of up to data.sequence_length=512 tokens, which is what memory depends on" in log
    assert "training.global_batch_size=8 changes only how many a data-parallel rank computes one after another: " in log
    job = mixed(base, tmp_path / "run", steps=1)
    job.data.packing = False
    run_sft(job)
    text = capsys.readouterr().out
    assert "micro-batches are a sample each (data.packing=false), which is what memory depends on" in text
    assert "one after another: 8 of " in text


def test_a_part_of_a_set_is_measured_scored_and_trained_on_alone(base, tmp_path, capsys):
    job = preference_job.job(base / "model", base / "preference", tmp_path / "run", steps=4, global_batch_size=4)
    job.data.max_samples = 5
    run_dpo(job)
    text = capsys.readouterr().out
    assert "5 samples, 4 steps of 4 samples: 3.2 passes over them" in text
    assert "data.max_samples=5: 5 of the 12 samples in data.shards are trained on, the first in the order of" in text
    reference = (tmp_path / "run/reference.jsonl").read_text().splitlines()
    assert len(reference) == 1 + 5, "the reference is not asked for pairs that no step has"
    job.training.steps = 5
    run_dpo(job)
    assert len(numbers(tmp_path / "run")) == 5, "it goes on with the same part"
    job.data.max_samples = 6
    with pytest.raises(ValueError, match="data.max_samples=5, this job has .*data.max_samples=6"):
        run_dpo(job)


def test_a_reference_of_a_mixture_is_written_with_its_prefixes(base, tmp_path, capsys):
    """Both folders have the same ids; the weights of a job change nothing of what is scored."""
    preference_job.write_shards(tmp_path / "more", 4)
    folders, prefixes = [str(base / "preference"), str(tmp_path / "more")], ["a-", "b-"]
    command = ["--checkpoint", base / "model", "--shards", *folders, "--output", tmp_path / "reference.jsonl"]
    command += ["--min-pixels", 1024, "--id-prefixes", *prefixes]
    assert log_probs.main([*map(str, command)]) in (None, 0)
    job = preference_job.job(
        base / "model", base / "preference", tmp_path / "run", steps=2, global_batch_size=4,
        reference={"file": str(tmp_path / "reference.jsonl")},
    )  # fmt: skip
    job.data = dataclasses.replace(job.data, shards=folders, id_prefixes=prefixes, weights=[0.5, 0.5])
    run_dpo(job)
    assert numbers(tmp_path / "run")[0][0] == pytest.approx(0.693147, abs=1e-5), "ln 2: each pair has its own line"
    assert "more: 4 samples, 4 of the run's 8 (50.0%), 1 pass over them" in capsys.readouterr().out


def test_more_samples_than_there_are(base, tmp_path, capsys):
    job = mixed(base, tmp_path / "run", steps=1)
    job.data = dataclasses.replace(job.data, weights=[], max_samples=300)
    run_sft(job)
    assert "note: data.max_samples=300 takes all of the 29 samples there are" in capsys.readouterr().out


def test_a_schedule_that_does_not_fit_is_refused_when_the_steps_are_known(base, tmp_path):
    job = small_job.job(base / "model", base / "many", tmp_path / "run", steps=0, epochs=1)
    job.optimizer = dataclasses.replace(job.optimizer, schedule="wsd", decay_steps=2)  # 3 steps, 2 of them warm-up
    job.validate()
    with pytest.raises(
        SettingsError, match="a warm-up of 2 and a decay of 2 steps .* more than the 3 steps of the run"
    ):
        run_sft(job)
    assert not (tmp_path / "run/metrics.jsonl").exists()


def test_another_schedule_may_go_on_and_a_line_says_so(base, tmp_path, capsys):
    job = small_job.job(base / "model", base / "many", tmp_path / "run", steps=4, stop_after=2)
    run_sft(job)
    job.training.stop_after, job.optimizer.schedule = 0, "constant"
    run_sft(job)
    text = capsys.readouterr().out
    assert "optimizer.schedule: cosine -> constant from step 2" in text
    assert "learning rate: rises from 0.000333 at step 1 to 0.001 at step 3, stays at 0.001" in text
    assert [rate for _, _, rate in numbers(tmp_path / "run")] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3, 1e-3])
