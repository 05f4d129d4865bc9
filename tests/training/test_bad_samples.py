"""Jobs on shards of which some samples cannot be read: left out in every layout, counted, named, and too many."""

import json
import sys
from statistics import fmean

import pytest

from editcaption_mega.data import SampleOrder, open_shards
from editcaption_mega.settings import save_settings
from editcaption_mega.training import run_dpo, run_sft
from editcaption_mega.training.log_probs import log_probs_of_shards
from editcaption_mega.training.session import Ending
from tests.helpers import ROOT, preference_job, small_job, warm
from tests.helpers.damaged_shards import KINDS, damaged

BATCH, STEPS = 8, 6


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """Sound shards, and copies with a sample of each kind of damage, of which the first step has the first three."""
    root = tmp_path_factory.mktemp("bad_samples")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards")
    small_job.write_shards(root / "others", 6, seed=9)
    preference_job.write_shards(root / "pairs", 130)
    damaged(root / "shards", root / "bad", dict(zip(bad_ids(root), KINDS, strict=True)))
    return root


def bad_ids(root):
    ids, order = list(open_shards(root / "shards").ids), SampleOrder(24, 1234)
    return [ids[order.at(position)] for position in (1, 4, 6)]


def job(base, output, shards="bad", **training):
    settings = small_job.job(base / "model", base / shards, output, **training)
    settings.data.bad_samples, settings.data.bad_samples_share = "skip", 0.5
    return settings


def rows(output):
    lines = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in lines] == list(range(1, len(lines) + 1))
    return lines


@pytest.fixture(scope="module")
def whole(base):
    assert run_sft(job(base, base / "whole")) == Ending(STEPS)
    return base / "whole"


def test_the_loss_of_a_step_is_the_mean_over_the_samples_that_are_left(base, whole, tmp_path):
    """By log-probs of the sound shards under the weights before the first step."""
    settings = small_job.job(base / "model", base / "shards", base / "-")
    settings.model.checkpoint, settings.model.folder = str(base / "model"), "-"
    log_probs_of_shards(settings, tmp_path / "all.jsonl", with_tokens=False)
    _, *lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    order = SampleOrder(24, 1234)
    of_step = [lines[order.at(position)] for position in range(BATCH)]
    left = [line for line in of_step if line["id"] not in bad_ids(base)]
    assert len(left) == 5
    expected = -fmean(value for line in left for value in line["token_log_probs"])
    assert rows(whole)[0]["loss"] == pytest.approx(expected, abs=2e-6)


def test_they_are_named_and_counted(base, whole):
    first = rows(whole)[0]
    assert {sample["id"] for sample in first["bad_samples"]} == set(bad_ids(base))
    assert all((base / "bad").as_posix() in sample["shard"] for sample in first["bad_samples"])
    reasons = {sample["id"]: sample["reason"] for sample in first["bad_samples"]}
    words = ("not an image", "not the one that was written, by its sha256", "record")
    for name, kind, word in zip(bad_ids(base), KINDS, words, strict=True):
        assert word in reasons[name] or kind == "no record", reasons
    assert [row["samples"] for row in rows(whole)] == [BATCH * step for step in range(1, STEPS + 1)]
    text = (whole / "log.txt").read_text()
    for name in bad_ids(base):
        assert f"step 1: sample {name} of {base / 'bad'}" in text
    state = json.loads((whole / "checkpoints/step_00000006/state.json").read_text())
    met = sum(len(row.get("bad_samples", ())) for row in rows(whole))
    assert state["bad_samples"] == met == 6, "two epochs"


LAYOUTS = {
    "data parallel": (2, []),
    "pipeline": (2, ["parallel.pipeline_model_parallel_size=2"]),
    "tensor": (2, ["parallel.tensor_model_parallel_size=2"]),
    "a row each": (2, ["data.packing=false"]),
    "processes": (1, ["data.worker_processes=true"]),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_every_layout_leaves_out_the_same(base, whole, tmp_path, layout):
    count, overrides = LAYOUTS[layout]
    save_settings(job(base, tmp_path / "run"), tmp_path / "job.yaml")
    launch(tmp_path / "job.yaml", count, *overrides)
    made, expected = rows(tmp_path / "run"), rows(whole)
    assert [row.get("bad_samples") for row in made] == [row.get("bad_samples") for row in expected]
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in made] == pytest.approx([row[name] for row in expected], rel=2e-5)


def launch(config, count, *overrides):
    options = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(count)]
    done = warm.run([sys.executable, *options, ROOT / "launch/pretrain_sft.sh", config, *overrides])
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_run_that_is_cut_goes_on_with_other_ranks_and_workers_as_if_it_had_not_been(base, whole, tmp_path):
    """Cut behind the step that met them; the second epoch meets them again."""
    assert run_sft(job(base, tmp_path / "run", stop_after=1)) == Ending(1)
    save_settings(job(base, tmp_path / "run"), tmp_path / "job.yaml")
    launch(tmp_path / "job.yaml", 2, "data.worker_processes=true", "data.workers=1", "data.sequence_length=1024")
    made, expected = rows(tmp_path / "run"), rows(whole)
    assert [row.get("bad_samples") for row in made] == [row.get("bad_samples") for row in expected]
    assert [row["loss"] for row in made] == pytest.approx([row["loss"] for row in expected], rel=2e-5)
    state = json.loads((tmp_path / "run/checkpoints/step_00000006/state.json").read_text())
    assert state["bad_samples"] == 6


def test_without_the_policy_the_first_ends_the_job_which_can_go_on_with_it(base, whole, tmp_path):
    """Of a bad record the job knows before its first step; so here it is a picture."""
    pictures = damaged(base / "shards", tmp_path / "bad", {bad_ids(base)[0]: "no picture"})
    settings = job(base, tmp_path / "run", pictures)
    settings.data.bad_samples = "raise"
    with pytest.raises(ValueError, match=rf"{bad_ids(base)[0]} \(target\): not an image"):
        run_sft(settings)
    assert run_sft(job(base, tmp_path / "run", pictures)) == Ending(STEPS)
    assert [sample["id"] for sample in rows(tmp_path / "run")[0]["bad_samples"]] == bad_ids(base)[:1]
    with pytest.raises(ValueError, match=f"{bad_ids(base)[2]}"):
        settings = job(base, tmp_path / "other")
        settings.data.bad_samples = "raise"
        run_sft(settings)
    assert not (tmp_path / "other/metrics.jsonl").exists(), "before the first step"


def test_a_record_that_was_mended_is_trained_on_again(base, tmp_path):
    """Though the lengths of its folder were measured when it was bad."""
    name = bad_ids(base)[2]
    shards = damaged(base / "shards", tmp_path / "bad", {name: "no record"})
    assert run_sft(job(base, tmp_path / "first", shards, steps=1)) == Ending(1)
    assert [sample["id"] for sample in rows(tmp_path / "first")[0]["bad_samples"]] == [name]
    for tar in shards.glob("*.tar"):
        tar.write_bytes((base / "shards" / tar.name).read_bytes())
    assert run_sft(job(base, tmp_path / "second", shards, steps=1)) == Ending(1)
    assert run_sft(job(base, tmp_path / "sound", "shards", steps=1)) == Ending(1)
    (second,), (sound,) = rows(tmp_path / "second"), rows(tmp_path / "sound")
    assert "bad_samples" not in second and second["loss"] == sound["loss"]


def test_too_many_end_the_job(base, tmp_path):
    settings = job(base, tmp_path / "run")
    settings.data.bad_samples_share = 0.1
    with pytest.raises(
        ValueError,
        match=r"3 of 8 samples of data.shards could not be read, more than data.bad_samples_share=0.1 of them: the "
        r"last is [\w-]+ in \S+\.tar \(and 2 more\): .*editcaption validate-shards names all.* or raise the share",
    ):
        run_sft(settings)


def test_a_step_of_which_nothing_is_left_ends_the_job(base, tmp_path):
    ids, order = list(open_shards(base / "shards").ids), SampleOrder(24, 1234)
    shards = damaged(
        base / "shards",
        tmp_path / "bad",
        {ids[order.at(position)]: "no picture" for position in range(BATCH, 2 * BATCH)},
    )
    settings = job(base, tmp_path / "run", shards)
    settings.data.bad_samples_share = 1.0
    with pytest.raises(ValueError, match="none of 8 samples of data.shards that are computed at once can be read"):
        run_sft(settings)
    assert len(rows(tmp_path / "run")) == 1


def test_held_out_pairs_that_cannot_be_read_are_said(base, tmp_path):
    settings = job(base, tmp_path / "run", "shards", steps=2)
    settings.data.held_out = [str(damaged(base / "others", tmp_path / "bad", {others(base)[1]: "another picture"}))]
    settings.evaluation.every, settings.samples.pairs = 1, 0
    assert run_sft(settings) == Ending(2)
    assert [row["held_out/bad_samples"] for row in rows(tmp_path / "run")] == [1, 1]
    text = (tmp_path / "run/log.txt").read_text()
    assert text.count("held out: 1 of 6 pairs cannot be read, left out") == 2
    assert text.count(f"held-out sample {others(base)[1]} of ") == 1
    sound = job(base, tmp_path / "-", "others")
    sound.model.checkpoint, sound.model.folder = str(tmp_path / "run"), "-"
    log_probs_of_shards(sound, tmp_path / "all.jsonl", with_tokens=False)
    _, *lines = [json.loads(line) for line in (tmp_path / "all.jsonl").read_text().splitlines()]
    expected = -fmean(v for line in lines if line["id"] != others(base)[1] for v in line["token_log_probs"])
    assert rows(tmp_path / "run")[-1]["held_out/loss"] == pytest.approx(expected, abs=2e-6)
    settings.data.bad_samples_share, settings.training.output = 0.1, str(tmp_path / "few")
    with pytest.raises(ValueError, match="1 of 6 samples of the held-out pairs could not be read, more than"):
        run_sft(settings)


def others(base):
    return list(open_shards(base / "others").ids)


@pytest.fixture(scope="module")
def preferences(base):
    """Preference shards, of which the first step has two bad pairs; the second one is a whole row without packing."""
    ids, order = list(open_shards(base / "pairs").ids), SampleOrder(len(open_shards(base / "pairs")), 1234)
    bad = {ids[order.at(position)]: kind for position, kind in ((0, "another picture"), (2, "no record"))}
    return damaged(base / "pairs", base / "bad-pairs", bad), set(bad)


def dpo_job(base, output, shards, **options):
    settings = preference_job.job(base / "model", shards, output, steps=3, global_batch_size=4, **options)
    settings.data.bad_samples, settings.data.bad_samples_share = "skip", 0.5
    return settings


@pytest.mark.parametrize("mode", ["stored", "resident"])
def test_a_bad_side_drops_the_whole_pair(base, preferences, tmp_path, mode):
    shards, bad = preferences
    for name, packing in (("packed", True), ("alone", False)):
        settings = dpo_job(base, tmp_path / name, shards, reference={"mode": mode})
        settings.data.packing = packing
        assert run_dpo(settings) == Ending(3)
    packed, alone = rows(tmp_path / "packed"), rows(tmp_path / "alone")
    for made in (packed, alone):
        assert [{sample["id"] for sample in row.get("bad_samples", ())} for row in made] == [bad, set(), set()]
    assert packed[0]["loss"] == pytest.approx(0.693147, abs=1e-5), "ln 2 is the mean over the two pairs that are left"
    for name in ("loss", "grad_norm"):
        assert [row[name] for row in packed] == pytest.approx([row[name] for row in alone], rel=2e-5)
    if mode == "stored":
        _, *lines = map(json.loads, (tmp_path / "packed/reference.jsonl").read_text().splitlines())
        assert {line["id"] for line in lines if "unreadable" in line} == bad and len(lines) > 100
        settings = dpo_job(base, tmp_path / "packed", shards)
        settings.training.steps = 4
        assert run_dpo(settings) == Ending(4), "a later start reads the same reference"
