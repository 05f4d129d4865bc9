"""The SFT job as its users run it: resumed, killed, moved, frozen, and given things that cannot work."""

import dataclasses
import functools
import gc
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time

import pytest

from editcaption_mega import signals
from editcaption_mega.conversion import StoreReader
from editcaption_mega.lock import FolderLock, HeldError
from editcaption_mega.model.qwen3_vl import Qwen3VLModel
from editcaption_mega.settings import save_settings
from editcaption_mega.training import run_sft
from editcaption_mega.training.session import Ending
from tests.helpers import ROOT, small_job, warm

LAUNCH = ROOT / "launch/pretrain_sft.sh"


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    root = tmp_path_factory.mktemp("job")
    small_job.write_folder(root / "model")
    small_job.write_shards(root / "shards")
    return root


@pytest.fixture(scope="module")
def whole(base):
    """An uninterrupted run of six steps."""
    run_sft(settings(base, base / "whole"))
    return rows(base / "whole")


def settings(base, output, **training):
    return small_job.job(base / "model", base / "shards", output, **training)


def rows(output):
    found = [json.loads(line) for line in (output / "metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in found] == list(range(1, len(found) + 1))
    return found


def losses(found):
    return [(row["loss"], row["grad_norm"], row["learning_rate"]) for row in found]


def test_run_folder(base, whole):
    output = base / "whole"
    assert {"config.yaml", "metrics.jsonl", "log.txt", "tensorboard", "checkpoints"} <= {
        path.name for path in output.iterdir()
    }
    wanted = {"step", "loss", "grad_norm", "learning_rate", "tokens", "samples", "seconds"}
    assert len(whole) == 6 and all(wanted <= row.keys() for row in whole)
    # Two steps of warm-up: a third and two thirds of the rate. The first step trains, too.
    assert [row["learning_rate"] for row in whole[:3]] == pytest.approx([1e-3 / 3, 2e-3 / 3, 1e-3])
    assert whole[-1]["loss"] < whole[0]["loss"]
    assert "expert_load_mean" in whole[0]
    log = (output / "log.txt").read_text()
    assert "router" in log and "trained" in log
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d ", line) for line in log.splitlines())
    assert " started on " in log and " versions: " in log and " command: " in log
    assert f"checkpoint saved: {output / 'checkpoints/step_00000003'}" in log
    assert sorted(p.name for p in (output / "checkpoints").iterdir()) == ["step_00000003", "step_00000006"]


def test_resumed_run_equals_the_whole_one(base, whole):
    run_sft(settings(base, base / "cut", stop_after=2))
    assert len(rows(base / "cut")) == 2
    run_sft(settings(base, base / "cut"))
    assert losses(rows(base / "cut")) == losses(whole)
    final = [StoreReader(base / name / "checkpoints/step_00000006") for name in ("cut", "whole")]
    assert final[0].tensors.keys() == final[1].tensors.keys()
    for key in final[0].tensors:
        assert final[0].read(key).equal(final[1].read(key)), key


def test_a_job_leaves_no_model_and_no_thread_behind(base, whole):
    """A process may train again and again; a group of ranks has threads that would never sleep."""

    def alive() -> tuple[int, int]:
        gc.collect()
        models = sum(type(thing) is Qwen3VLModel for thing in gc.get_objects())
        return models, len(os.listdir("/proc/self/task"))

    models, threads = alive()
    run_sft(settings(base, base / "left", steps=1))
    with pytest.raises(ValueError, match="global_batch_size"):
        run_sft(settings(base, base / "left", steps=1, global_batch_size=4))
    after = alive()
    assert after[0] == models and after[1] < threads + 10, f"{models} models, {threads} threads before; then {after}"


def test_a_finished_run_has_nothing_to_do(base, whole, capsys):
    run_sft(settings(base, base / "whole"))
    said = capsys.readouterr().out
    assert "nothing to do" in said
    ends = [line for line in said.splitlines() if line.startswith(("the checkpoint is ", "next, ", "or preference "))]
    assert f"the checkpoint is {base / 'whole/checkpoints/step_00000006'}" == ends[0] and len(ends) == 3
    # As it was said when the run came to its end.
    log = (base / "whole/log.txt").read_text()
    assert all(log.count(line) >= 2 for line in ends)
    assert losses(rows(base / "whole")) == losses(whole)


def start(base, output, ranks, *overrides, program=warm.Popen):
    config = base / f"{output.name}.yaml"
    save_settings(settings(base, output), config)
    command = [sys.executable, str(LAUNCH), str(config), *overrides]
    if ranks > 1:
        command[1:1] = ["-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(ranks)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1"}
    return program(command, stderr=subprocess.STDOUT, env=environment)


# As a user starts a job: new interpreters.
cold = functools.partial(subprocess.Popen, stdout=subprocess.PIPE, text=True)


@pytest.mark.parametrize("program", [warm.Popen, pytest.param(cold, marks=pytest.mark.slow)], ids=["forks", "cold"])
def test_killed_run_goes_on_with_other_ranks(base, whole, tmp_path, program):
    """SIGKILL in the middle, then two data-parallel ranks; nothing but the last digits changes."""
    output = tmp_path / "killed"
    process = start(base, output, 1, "training.log_every=1", "checkpoint.every=1", program=cold)
    seen = []
    for line in process.stdout:
        seen.append(line)
        if line.startswith("step 4/"):
            process.kill()
            break
    process.wait()
    process.stdout.close()
    assert process.returncode == -signal.SIGKILL, "".join(seen)
    done = start(base, output, 2, program=program)
    text, _ = done.communicate(timeout=300)
    assert done.returncode == 0, text
    assert "resumed after step" in text
    assert "holds the random states of another layout of ranks, so the generators begin with training.seed" in text
    for ours, theirs in zip(losses(rows(output)), losses(whole), strict=True):
        assert ours == pytest.approx(theirs, abs=1e-5)


def test_sigterm_saves_and_leaves(base):
    output = base / "asked"
    process = start(base, output, 1, "training.log_every=1", "training.steps=100000")
    for line in process.stdout:
        if line.startswith("step 2/"):
            process.send_signal(signal.SIGTERM)
            break
    text = process.stdout.read()
    process.wait()
    process.stdout.close()
    assert process.returncode == 0, text
    assert "stopped by signal 15" in text
    step = rows(output)[-1]["step"]
    assert (output / f"checkpoints/step_{step:08d}/tensors.json").is_file()


def test_half_written_checkpoint_is_not_used(base, whole):
    output = base / "half"
    run_sft(settings(base, output, stop_after=3))
    shutil.copytree(output / "checkpoints/step_00000003", output / "checkpoints/step_00000005.partial")
    broken = output / "checkpoints/step_00000005"
    shutil.copytree(output / "checkpoints/step_00000003", broken)
    (broken / "tensors.json").unlink()
    run_sft(settings(base, output))
    assert losses(rows(output)) == losses(whole)


def test_frozen_modules_and_multipliers(base):
    output = base / "frozen"
    job = settings(base, output, steps=2)
    job.optimizer = dataclasses.replace(job.optimizer, warmup_steps=0, vision=0.0, router=0.5)
    run_sft(job)
    after = StoreReader(output / "checkpoints/step_00000002")
    from editcaption_mega.conversion import FolderReader

    before = FolderReader(base / "model")
    for rule in before.rules.values():
        same = after.read("weights/" + rule.name).equal(before.read(rule))
        assert same == (rule.module == "vision"), rule.name
    assert not any(key.startswith("exp_avg/vision.patch_embed") for key in after.tensors)
    assert "frozen" in (output / "log.txt").read_text()


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_a_thawed_module_begins_its_moments_at_zero(base, precision):
    output = base / f"thawed_{precision}"
    job = settings(base, output, precision=precision, stop_after=3)
    job.optimizer.vision = 0.0
    run_sft(job)
    key = next(key for key in StoreReader(output / "checkpoints/step_00000003").tensors if "vision.patch_embed" in key)
    frozen = StoreReader(output / "checkpoints/step_00000003").read(key)
    job = settings(base, output, precision=precision, steps=4)
    run_sft(job)
    log = (output / "log.txt").read_text()
    assert "note: optimizer.vision was frozen up to step 3: its moments begin at zero" in log
    assert "optimizer.vision: 0.0 -> 1.0 from step 3" in log
    after = StoreReader(output / "checkpoints/step_00000004")
    name = key.removeprefix("weights/")
    # After one update from zero the moments are those of its gradient alone: b = (1 - beta) g, v = (1 - beta') g^2.
    first, second = (after.read(f"{moment}/{name}").double() for moment in ("exp_avg", "exp_avg_sq"))
    gradient = first / (1 - job.optimizer.beta1)
    assert gradient.abs().max() > 0
    assert second.allclose((1 - job.optimizer.beta2) * gradient**2, rtol=1e-4, atol=1e-30)
    master = after.read(f"param/{name}" if precision == "bf16" else key)
    assert not master.equal(frozen.float()) and master.allclose(frozen.float(), atol=1e-2)


def test_weights_only_start_from_a_checkpoint(base, whole):
    job = settings(base, base / "second", steps=1)
    job.model.checkpoint = str(base / "whole")
    run_sft(job)
    assert rows(base / "second")[0]["loss"] < whole[0]["loss"] - 0.05


def test_bf16_trains(base, whole):
    run_sft(settings(base, base / "bf16", precision="bf16", stop_after=3))
    run_sft(settings(base, base / "bf16", precision="bf16"))
    found = rows(base / "bf16")
    assert abs(found[0]["loss"] - whole[0]["loss"]) < 0.05
    assert found[-1]["loss"] < found[0]["loss"]
    store = StoreReader(base / "bf16/checkpoints/step_00000006")
    assert any(key.startswith("param/") for key in store.tensors)


def refused(base, words, *, before=None, **changes):
    """The job raises one sentence and leaves its output folder as it was."""
    output = base / f"refused-{time.monotonic_ns()}"
    job = settings(base, output)
    for path, value in changes.items():
        section, name = path.split("__")
        setattr(getattr(job, section), name, value)
    if before:
        before(output)
    with pytest.raises(ValueError) as error:
        run_sft(job)
    assert all(word in str(error.value) for word in words), error.value
    assert "\n" not in str(error.value)
    assert not (output / "metrics.jsonl").exists()


def test_folder_that_lacks_a_file(base, tmp_path):
    for name, word in [
        ("config.json", "config.json"),
        ("tokenizer.json", "tokenizer"),
        ("preprocessor_config.json", "preprocessor_config.json"),
        ("model.safetensors", "weights"),
    ]:
        folder = tmp_path / name
        shutil.copytree(base / "model", folder)
        (folder / name).unlink()
        refused(base, [str(folder), word], model__folder=str(folder))


def test_sample_longer_than_the_row(base):
    refused(base, ["syn-", "data.sequence_length=40", "raise it"], data__sequence_length=40)


def test_missing_and_corrupt_shards(base, tmp_path):
    refused(base, ["nowhere"], data__shards=[str(tmp_path / "nowhere")])
    broken = tmp_path / "broken"
    shutil.copytree(base / "shards", broken)
    tar = sorted(broken.glob("*.tar"))[0]
    tar.write_bytes(tar.read_bytes()[:-2000])
    refused(base, [tar.name], data__shards=[str(broken)])


def test_layout_that_does_not_fit(base):
    refused(base, ["tensor_model_parallel_size=3"], parallel__tensor_model_parallel_size=3)
    refused(base, ["1 rank is not a multiple"], parallel__pipeline_model_parallel_size=2)


def test_output_that_holds_something_else(base):
    def put(output):
        output.mkdir()
        (output / "thesis.tex").write_text("years of work")

    refused(base, ["thesis.tex", "choose another folder"], before=put)


def test_resume_with_other_data_is_refused(base, whole, tmp_path):
    small_job.write_shards(tmp_path / "other", count=16, seed=9)
    job = settings(base, base / "whole", steps=9)
    job.data.shards = [str(tmp_path / "other")]
    with pytest.raises(ValueError, match="shards=[0-9a-f]{12}, this job has shards=[0-9a-f]{12}"):
        run_sft(job)
    job = settings(base, base / "whole", steps=9, global_batch_size=4)
    with pytest.raises(ValueError, match="training.global_batch_size=8, this job has training.global_batch_size=4"):
        run_sft(job)


def test_what_changed_on_resume_is_listed_and_kept(base, capsys):
    output = base / "changed"
    run_sft(settings(base, output, stop_after=2))
    job = settings(base, output, steps=4)
    job.optimizer.learning_rate, job.data.packing = 2e-3, False
    capsys.readouterr()
    run_sft(job)
    text = capsys.readouterr().out
    assert "optimizer.learning_rate: 0.001 -> 0.002 from step 2" in text
    assert "data.packing: True -> False from step 2" in text and "training.steps: 6 -> 4 from step 2" in text
    assert "learning_rate: 0.001" in (output / "config.step-00000002.yaml").read_text()
    assert "learning_rate: 0.002" in (output / "config.yaml").read_text()


def half_the_merges(tokenizer: str) -> str:
    """The same words, put together otherwise."""
    value = json.loads(tokenizer)
    value["model"]["merges"] = value["model"]["merges"][: len(value["model"]["merges"]) // 2]
    return json.dumps(value)


def test_another_order_tokenizer_or_template_is_refused_on_resume(base, whole, tmp_path):
    job = settings(base, base / "whole", steps=9)
    job.data.shuffle = False
    with pytest.raises(ValueError, match="data.shuffle=True, this job has data.shuffle=False"):
        run_sft(job)
    job = settings(base, base / "whole", steps=9, precision="bf16")
    with pytest.raises(ValueError, match="training.precision=fp32, this job has training.precision=bf16"):
        run_sft(job)
    for name, file, change in [
        ("chat_template", "chat_template.jinja", lambda text: text.replace("assistant", "helper")),
        ("tokenizer", "tokenizer.json", half_the_merges),
    ]:
        folder = shutil.copytree(base / "model", tmp_path / name)
        (folder / file).write_text(change((folder / file).read_text()))
        job = settings(base, base / "whole", steps=9)
        job.model.folder = str(folder)
        with pytest.raises(ValueError, match=rf"was trained with {name}=.*\({name} comes from model.folder\)"):
            run_sft(job)
    job = settings(base, base / "whole", steps=9)
    job.optimizer.vision = 0.0
    with pytest.raises(ValueError, match="optimizer.vision=trained, this job has optimizer.vision=frozen"):
        run_sft(job)


def test_one_job_in_a_folder(base):
    with FolderLock(base / "held", "training"), pytest.raises(HeldError, match="is in use: training by process"):
        run_sft(settings(base, base / "held"))
    assert not (base / "held").exists()


def test_a_signal_before_the_first_step(base, capsys):
    """It came while the job was set up: nothing is saved, and the job ends without an error."""
    with signals.listening():
        signals.ask(signal.SIGUSR1)
        ending = run_sft(settings(base, base / "early"))
    assert ending == Ending(0, signal.SIGUSR1)
    assert "stopped by signal 10 while it waited for its folder" in capsys.readouterr().out
    assert not (base / "early").exists()


def test_what_diverges_without_a_checkpoint(base):
    job = settings(base, base / "diverged")
    job.optimizer.learning_rate, job.optimizer.clip_grad = 1e30, 0.0
    with pytest.raises(FloatingPointError, match="This run has no checkpoint yet: the same command begins it again"):
        run_sft(job)
    assert "FloatingPointError" in (base / "diverged/log.txt").read_text()


def test_settings_that_do_less_than_they_say(base, capsys):
    job = settings(base, base / "odd", steps=1, global_batch_size=30)
    job.optimizer.warmup_steps = 5
    run_sft(job)
    text = capsys.readouterr().out
    assert "training.global_batch_size=30 is more than the 24 samples there are" in text
    assert "optimizer.warmup_steps=5 is not below the number of steps (1)" in text


def test_checkpoint_of_another_model_is_refused(base, whole, tmp_path):
    small_job.write_folder(tmp_path / "wide", dataclasses.replace(small_job.SIZE, expert_intermediate_size=48))
    refused(
        base, ["checkpoint of another model", "experts"],
        model__folder=str(tmp_path / "wide"), model__checkpoint=str(base / "whole"),
    )  # fmt: skip
