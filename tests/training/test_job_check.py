"""What `--check` says of a job is what the job then does, and what it refuses the job would refuse."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from editcaption_mega.data.batching.dataset import open_pairs
from editcaption_mega.planning.workload import workload_of
from editcaption_mega.settings import AdapterSettings, SettingsError, save_settings
from editcaption_mega.training import run_sft
from editcaption_mega.training.job_check import check_job
from tests.helpers import preference_job, small_job

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture(scope="module")
def places(tmp_path_factory):
    root = tmp_path_factory.mktemp("check")
    return small_job.write_folder(root / "model"), small_job.write_shards(root / "pairs")


def measured(folder, shards):
    pairs = open_pairs([str(shards)], folder, min_pixels=1024, max_pixels=1 << 20)
    lengths, problems = pairs.measure(range(len(pairs)), 512)
    assert not problems
    return pairs, lengths


def test_everything_is_opened_and_counted_and_nothing_is_written(places, tmp_path):
    settings = small_job.job(*places, tmp_path / "run")
    check = check_job(settings, 2)
    text = "\n".join(check.lines)
    _, lengths = measured(*places)
    tokens = lengths.num_tokens.tolist()
    assert f"samples: 24 with {sum(tokens):,} tokens, of which answers {int(lengths.answers.sum()):,}" in text
    assert f"{min(tokens)} to {max(tokens)} each" in text and f"({max(tokens)} tokens)" in text
    assert "steps: 6 of 8 samples, 2.00 passes over the samples; warm-up 2; a checkpoint every 3" in text
    rows = -(-sum(tokens[:8]) // 512 // 2)  # pairs of this world are about as long as each other
    assert f"{rows} of them in a step, each a micro-batch, on each of 2 data-parallel ranks (2 in all)" in text
    assert "1 file, " in text and f"output: {tmp_path / 'run'}, a new run" in text and "trained" in text
    assert list(tmp_path.iterdir()) == []


def test_what_each_of_several_folders_gives_and_pictures_cost(places, tmp_path):
    settings = small_job.job(*places, tmp_path / "run")
    other = small_job.write_shards(tmp_path / "other", 6, seed=9)
    settings.data.shards.append(str(other))
    settings.data.weights = [0.7, 0.3]
    text = "\n".join(check_job(settings, 1).lines)
    assert f"{places[1]}: 24 samples, 34 of the run's 48 (70.8%), 1.42 passes over them" in text
    assert f"{other}: 6 samples, 14 of the run's 48 (29.2%), 2.33 passes over them" in text
    assert "resized to data.min_pixels=1,024 to data.max_pixels=1,310,720, a token for 32 x 32" in text


def test_a_share_of_all_steps_as_warm_up_is_counted(places, tmp_path):
    settings = small_job.job(*places, tmp_path / "run")
    settings.optimizer.warmup_steps, settings.optimizer.warmup_ratio = 0, 0.5
    assert "warm-up 3; a checkpoint every 3" in "\n".join(check_job(settings, 1).lines)


def test_held_out_pairs_are_opened_and_counted_too(places, tmp_path):
    settings = small_job.job(*places, tmp_path / "run")
    settings.data.held_out_share, settings.evaluation.every = 0.25, 2
    text = "\n".join(check_job(settings, 2).lines)
    assert "samples: 18 with" in text and "6 pairs are held out (data.held_out_share=0.25) from 18 that are" in text
    settings.data.held_out_share, settings.data.held_out = 0.0, [str(places[1])]
    with pytest.raises(SettingsError, match="of data.held_out has the pictures of sample"):
        check_job(settings, 2)
    settings.data.held_out = [str(small_job.write_shards(tmp_path / "long", 2, seed=9))]
    settings.evaluation.metric = "held_out/reward_margin"
    with pytest.raises(SettingsError, match="is none by which this job can choose"):
        check_job(settings, 2)


def test_the_samples_that_memory_is_estimated_from_are_the_data_s(places):
    pairs, lengths = measured(*places)
    workload = workload_of(pairs, lengths)
    assert len(workload.picture_tokens) == len(workload.answer_tokens) == 11
    sizes = [
        workload.pictures * picture + workload.prompt_text_tokens + answer
        for picture, answer in zip(workload.picture_tokens, workload.answer_tokens, strict=True)
    ]
    assert sizes == sorted(sizes) and set(sizes) <= set(lengths.num_tokens.tolist())
    assert sizes[-1] == max(lengths.num_tokens)


def test_what_the_job_would_refuse_is_refused(places, tmp_path):
    folder, shards = places
    settings = small_job.job(folder, shards, tmp_path / "run")
    with pytest.raises(SettingsError, match="8 samples in a step cannot feed 16 rows at once"):
        check_job(settings, 16)
    settings.data.sequence_length = 144
    sentence = r"takes 14\d tokens, more than .* such samples; the longest takes 149 tokens"
    with pytest.raises(SettingsError, match=sentence):
        check_job(settings, 1)
    broken = tmp_path / "model"
    shutil.copytree(folder, broken)
    weights = broken / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-10])
    with pytest.raises(SettingsError, match="model.safetensors"):
        check_job(small_job.job(broken, shards, tmp_path / "run"), 1)
    (tmp_path / "taken").mkdir()
    (tmp_path / "taken/notes.txt").write_text("mine")
    with pytest.raises(SettingsError, match=r"already holds something else \(notes.txt\)"):
        check_job(small_job.job(folder, shards, tmp_path / "taken"), 1)
    with pytest.raises(ValueError, match="has no chosen and rejected answers to compare"):
        check_job(preference_job.job(folder, shards, tmp_path / "run"), 1)


def test_a_preference_job_says_its_reference(places, tmp_path):
    shards = preference_job.write_shards(tmp_path / "preferences")
    check = check_job(preference_job.job(places[0], shards, tmp_path / "run"), 1)
    assert any("the log-probs of 16 pairs, computed before the first step" in line for line in check.lines)
    untagged = preference_job.write_shards(tmp_path / "untagged", failure_modes=None)
    with pytest.raises(SettingsError, match="says no failure_modes"):
        check_job(preference_job.job(places[0], untagged, tmp_path / "run"), 1)


def test_adapters_are_counted_and_what_has_no_meaning_for_them_is_said(places, tmp_path):
    settings = small_job.job(*places, tmp_path / "run")
    settings.model.adapters = AdapterSettings(rank=4, modules=["self_attn.*"])
    settings.parallel.pipeline_model_parallel_size = 2
    told = "note: parallel.delayed_weight_gradients=[0, 1] changes nothing"
    for counts in (None, [0, 1]):
        settings.parallel.delayed_weight_gradients = counts
        lines = check_job(settings, 2).lines
        assert any("adapters (rank 4, scale 8) on 16 modules" in line for line in lines)
        assert any(line.startswith(told) for line in lines) == (counts is not None)


def test_a_run_that_would_go_on_says_where_and_what_changed(places, tmp_path):
    settings = small_job.job(*places, tmp_path / "run", steps=1)
    run_sft(settings)
    before = {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    settings.training.steps, settings.optimizer.learning_rate = 4, 5e-4
    lines = check_job(settings, 1).lines
    assert f"output: {tmp_path / 'run'}, goes on after step 1" in lines
    assert "optimizer.learning_rate: 0.001 -> 0.0005 from step 1" in lines
    assert before == {path: path.read_bytes() for path in (tmp_path / "run").rglob("*") if path.is_file()}
    settings.training.seed = 7
    with pytest.raises(SettingsError, match="training.seed=1234, this job has training.seed=7"):
        check_job(settings, 1)


def test_the_command_says_it_on_one_rank_alone(places, tmp_path):
    save_settings(small_job.job(*places, tmp_path / "run"), tmp_path / "job.yaml")
    command = [sys.executable, str(ROOT / "launch/pretrain_sft.sh"), str(tmp_path / "job.yaml"), "--check"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "WORLD_SIZE": "2"}
    quiet = subprocess.run(command, env=environment | {"RANK": "1"}, capture_output=True, text=True)
    assert quiet.returncode == 0 and quiet.stdout == ""
    done = subprocess.run(command, env=environment | {"RANK": "0"}, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "(2 in all)" in done.stdout and done.stdout.endswith("nothing was started (--check)\n")
    assert "2 GPUs: 9" in done.stdout and "% of the memory free on stage 0" in done.stdout
    small = [*command, "--gpu-memory", "0.5", "--gpus", "1"]
    done = subprocess.run(small, env=os.environ | {"PYTHONPATH": str(ROOT)}, capture_output=True, text=True)
    assert done.returncode == 1 and done.stderr.splitlines()[-1].startswith("error: ")
    assert "(1 in all)" in done.stdout
