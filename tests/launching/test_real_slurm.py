"""Jobs on a real Slurm of two nodes, hit by everything that happens to jobs: each ends as docs/launching.md says, goes
on by itself, and has the losses of an undisturbed run, bit for bit. Slow: a start takes some twenty seconds."""

import json
import os
import re
import shutil
import signal
import sys
import time
from pathlib import Path

import pytest
import yaml

from editcaption_mega.settings import save_settings
from tests.helpers import ROOT, preference_job
from tests.helpers.real_slurm import SubmittedJob, why_not
from tests.helpers.slurm_trial import SFT, STEPS, Trial, rank_pids

NODES = 2
pytestmark = [pytest.mark.slow, pytest.mark.skipif(bool(why_not()), reason=why_not())]


@pytest.fixture(scope="module")
def undisturbed(slurm, base):
    """Form A: submitted from another folder. -> losses"""
    trial = Trial(slurm, base, "undisturbed")
    job = trial.submit(cwd=Path("/"))
    assert job.end() == "COMPLETED", job.log
    assert "2 nodes x 1 = 2 ranks on n[0-1]" in job.log and "Warning" not in job.log, job.log
    assert "2 ranks on " in job.log and "megatron-core" in job.log, job.log
    assert trial.outcome()["kind"] == "finished" and trial.outcome()["step"] == STEPS
    assert len(trial.losses()) == STEPS
    return trial.losses()


def goes_on(job: SubmittedJob) -> None:
    """It went back into the queue; ended as every other after that."""
    job.start_now()
    assert job.end() == "COMPLETED", job.log
    assert "resumed after step" in job.log, job.log


def test_T1_a_time_limit_is_a_save_and_the_job_goes_on(slurm, base, undisturbed):
    """The limit is set once the job trains, and taken away for the next start: how long either takes to begin is the
    machine's affair. Slurm warns at 60 s before it, or up to 30 s earlier."""
    trial = Trial(slurm, base, "T1")
    job = trial.submit("--signal=B:USR1@60", "--time=60", overrides=["training.steps=100000"])
    job.wait_says("step 5/")
    job.limit_to(minutes=job.minutes() + 2)
    job.wait_says("requeued: the next start", 240)
    assert "saved: stopped by signal 10 after step" in job.log, job.log
    done = trial.outcome()["step"]
    assert done >= 5 and (trial.output / f"checkpoints/step_{done:08d}/tensors.json").is_file()
    job.wait_until("PENDING")
    job.limit_to(minutes=60)
    job.start_now()
    job.wait_says(f"step {done + 5}/100000")
    slurm.run("scancel", job.number)
    assert job.end() == "CANCELLED" and f"resumed after step {done}" in job.log, job.log
    assert trial.outcome()["kind"] == "saved" and job.log.count("requeued") == 1, job.log


def test_T2_scancel_signal_TERM_is_a_save_and_the_job_goes_on(slurm, base, undisturbed):
    trial = Trial(slurm, base, "T2")
    job = trial.submit()
    job.wait_says("step 5/")
    slurm.run("scancel", "--signal=TERM", job.number)
    job.wait_says("saved: stopped by signal 15")
    goes_on(job)
    assert trial.losses() == undisturbed


def test_T3_scontrol_requeue_is_a_save_and_the_job_goes_on(slurm, base, undisturbed):
    trial = Trial(slurm, base, "T3")
    job = trial.submit()
    job.wait_says("step 5/")
    slurm.run("scontrol", "requeue", job.number)
    goes_on(job)
    assert int(re.search(r"resumed after step (\d+)", job.log).group(1)) >= 5, job.log
    assert trial.losses() == undisturbed


def test_T4_a_rank_that_is_killed_is_named_and_the_job_goes_on_where_it_is(slurm, base, undisturbed):
    trial = Trial(slurm, base, "T4")
    job = trial.submit()
    job.wait_says("step 15/")
    began = time.monotonic()
    os.kill(rank_pids(trial)[1], signal.SIGKILL)
    job.wait_says("fault: ", 30)
    print(f"noticed after {time.monotonic() - began:.1f} s")
    assert re.search(r"fault: a rank on \S+ \(local rank 0.*SIGKILL.*rank 1 on", job.log), job.log
    assert job.end() == "COMPLETED" and job.field("Restarts") == "0", job.log
    assert "starting again on the same nodes" in job.log and re.search(r"resumed after step [123]0", job.log), job.log
    assert trial.losses() == undisturbed


def test_T5_a_node_that_is_lost_is_a_requeue(slurm, base, undisturbed):
    trial = Trial(slurm, base, "T5", steps=100000)
    job = trial.submit()
    job.wait_says("step 5/")
    slurm.kill_node("n1")
    try:
        job.wait_until("PENDING", 90)  # SlurmdTimeout is 20 s here
    finally:
        slurm.run("scancel", job.number)
        slurm.start_node("n1")
        slurm.wait_idle()
    saved = trial.outcome()
    assert saved["kind"] == "saved", job.log
    job = trial.submit(overrides=[f"training.steps={saved['step'] + 5}"])
    assert job.end() == "COMPLETED", job.log
    assert f"resumed after step {saved['step']}" in job.log, job.log
    assert len(trial.losses()) == saved["step"] + 5


def test_T6_a_rank_that_is_stopped_is_named_and_the_job_goes_on(slurm, base, undisturbed):
    trial = Trial(slurm, base, "T6")
    job = trial.submit(overrides=["watchdog.step_minutes=0.3"])
    job.wait_says("step 15/")
    began, stopped = time.monotonic(), rank_pids(trial)[1]
    os.kill(stopped, signal.SIGSTOP)
    job.wait_says("error: the job stands still", 120)  # the limit of 18 s, 15 s for the stacks, and a busy machine
    print(f"named after {time.monotonic() - began:.1f} s")
    assert re.search(rf"No sign of life from rank 1 on \S+ \(process {stopped}\) since", job.log), job.log
    assert "(watchdog.step_minutes=0.3)" in job.log
    assert job.end() == "COMPLETED" and job.field("Restarts") == "0", job.log
    assert "fault: the job stands still" in job.log and "starting again on the same nodes" in job.log, job.log
    stacks = (trial.output / "logs/rank_00000.txt").read_text()
    assert "watchdog: " in stacks and "train_step" in stacks
    assert trial.losses() == undisturbed and not Path(f"/proc/{stopped}").exists()


def test_T7_preemption_is_a_save_and_the_job_goes_on(slurm, base, undisturbed):
    trial = Trial(slurm, base, "T7")
    job = trial.submit("--partition=low")
    job.wait_says("step 5/")
    other = slurm.submit("--partition=high", "--nodes=2", "--exclusive", "--output=/dev/null", "--wrap", "sleep 1")
    job.wait_says("saved: stopped by signal")
    assert other.end() == "COMPLETED"
    goes_on(job)
    assert trial.losses() == undisturbed


PAIRS = 400


def test_T10_a_signal_during_the_reference_of_dpo_is_a_save(slurm, base):
    preference_job.write_shards(base / "pairs", PAIRS)
    losses = {}
    for name in ("reference whole", "reference cut"):
        trial = Trial(slurm, base, name)
        settings = preference_job.job(base / "model", base / "pairs", trial.output, steps=6, log_every=1)
        save_settings(settings, trial.config)
        job = trial.submit(script=ROOT / "launch/train_dpo.sh")
        if name == "reference cut":
            job.wait_says("reference: log-probs of")
            slurm.run("scancel", "--batch", "--signal=USR1", job.number)
            job.wait_says("saved: stopped by signal 10 after")
            assert f"of {PAIRS} samples of reference.jsonl" in job.log, job.log
            job.start_now()
        assert job.end() == "COMPLETED", job.log
        losses[name] = trial.losses()
    assert losses["reference cut"] == losses["reference whole"] and len(losses["reference cut"]) == 6


def test_T11_a_task_of_an_array_that_is_requeued_does_its_part_of_the_evaluation(slurm, base):
    output = base / "evaluation"
    config = {
        "output": str(output),
        "benchmarks": [{"name": "set", "shards": str(base / "shards")}],
        "models": [{"name": "m", "folder": str(base / "model")}],
        "judges": [{"name": "rules", "kind": "rule"}],
        "generation": {"max_tokens": 200, "min_pixels": 1024, "batch_size": 1},
    }
    (base / "evaluation.yaml").write_text(yaml.safe_dump(config))
    path = f"{Path(sys.executable).parent}:{os.environ['PATH']}"
    log = f"--output={base}/logs/task-%a.out"
    words = ["--parsable", "--array=0-2", log, ROOT / "launch/batch_eval.sh", base / "evaluation.yaml"]
    number = slurm.run("sbatch", *map(str, words), PATH=path, OMP_NUM_THREADS="1").strip()
    task = SubmittedJob(slurm, f"{number}_1")
    task.wait_until("RUNNING")
    time.sleep(8)
    slurm.run("scontrol", "requeue", task.number)
    task.start_now()
    slurm.wait_for(lambda: not slurm.run("squeue", "-h", "-j", number).strip(), 300, "the array")
    said = "\n".join(path.read_text() for path in sorted(base.glob("logs/task-*.out")))
    assert (output / "report/report.html").is_file(), said
    judged = [json.loads(line)["id"] for line in (output / "judgements/rules/m/set.jsonl").read_text().splitlines()]
    assert len(judged) == len(set(judged)) == 12, said


def test_a_user_s_error_ends_the_job_and_is_not_tried_again(slurm, base):
    trial = Trial(slurm, base, "mistake")
    job = trial.submit(overrides=["training.stepz=3"])
    assert job.end() == "FAILED" and job.field("ExitCode") == "2:0" and job.field("Restarts") == "0"
    assert "error: override 'training.stepz=3': unknown setting" in job.log and "requeued" not in job.log, job.log


# From here on the launch forms: short jobs, which need not be compared.


def test_forms_B_and_G_another_working_folder_and_no_environment(slurm, base, tmp_path):
    trial = Trial(slurm, base, "form B", steps=2)
    job = trial.submit(f"--chdir={tmp_path}", "--export=NONE", cwd=tmp_path)
    assert job.end() == "COMPLETED", job.log
    assert len(trial.losses()) == 2 and list(tmp_path.iterdir()) == []


def test_forms_C_D_and_E_a_named_checkout_strange_names_and_an_activated_environment(slurm, base, tmp_path):
    """A copy of the script alone, which only EDITCAPTION_ROOT can tie to its checkout."""
    trial = Trial(slurm, base, "form C", steps=2)
    script = tmp_path / "my job.sh"
    script.write_bytes(SFT.read_bytes())
    name = '--job-name=my job: "x" $HOME é'
    job = trial.submit(name, script=script, cwd=tmp_path, EDITCAPTION_ROOT=str(ROOT), SRUN_ARGS="--label")
    assert job.end() == "COMPLETED", job.log
    assert len(trial.losses()) == 2 and re.search(r"^0: step 2/2", job.log, re.MULTILINE), job.log


APPTAINER = """#!/bin/bash
# A stand-in, where no runtime is installed: apptainer exec --nv --bind MOUNTS --pwd FOLDER IMAGE COMMAND..
[ "$1 $2 $3 $5" = "exec --nv --bind --pwd" ] && [ "$7" = /images/train.sif ] || exit 9
cd "$6"; shift 7
export PATH="PYTHON:$PATH" IN_IMAGE=1
exec "$@"
"""


def test_form_F_a_container_whose_host_has_no_environment(slurm, base, tmp_path):
    """The batch script runs under the system's Python, without PyTorch; the ranks under that of the "image"."""
    checkout = tmp_path / "checkout"
    for part in ("launch", "editcaption_mega"):
        shutil.copytree(ROOT / part, checkout / part, ignore=shutil.ignore_patterns("__pycache__"))
    (tmp_path / "bin").mkdir()
    runtime = tmp_path / "bin/apptainer"
    runtime.write_text(APPTAINER.replace("PYTHON", str(Path(sys.executable).parent)))
    runtime.chmod(0o755)
    trial = Trial(slurm, base, "form F", steps=2)
    job = trial.submit(
        script=checkout / "launch/pretrain_sft.sh", PATH=f"{tmp_path}/bin:/usr/bin:/bin", PYTHONPATH="",
        CONTAINER_IMAGE="/images/train.sif", CONTAINER_MOUNTS=str(base),
    )  # fmt: skip
    assert job.end() == "COMPLETED", job.log
    assert "apptainer exec --nv --bind" in job.log and f"{checkout}:{checkout}," in job.log, job.log
    assert len(trial.losses()) == 2


def test_inside_an_allocation(slurm, base, tmp_path):
    """A shell in a step of one node has that node; the shell of an allocation of two starts a step beside itself."""
    trial = Trial(slurm, base, "shell", steps=2)
    environment = {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    start = ["bash", str(SFT), str(trial.config)]
    said = slurm.run("salloc", "--nodes=1", "srun", "--ntasks=1", *start, cwd=tmp_path, seconds=300, **environment)
    assert "1 rank on" in said and len(trial.losses()) == 2
    shutil.rmtree(trial.output)
    shell = ["srun", "--preserve-env", "--nodes=1", "--ntasks=1", "--cpus-per-task=2", *start]
    said = slurm.run("salloc", "--exclusive", "--nodes=2", *shell, cwd=tmp_path, seconds=300, **environment)
    assert "2 ranks on" in said and len(trial.losses()) == 2


def test_own_step_with_a_task_for_each_node(slurm, base, tmp_path):
    trial = Trial(slurm, base, "own step", steps=2)
    environment = {"OMP_NUM_THREADS": "1", "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}"}
    step = ["srun", "--ntasks-per-node=1", "--cpus-per-task=2", "bash", str(SFT), str(trial.config)]
    said = slurm.run("salloc", "--exclusive", "--nodes=2", *step, cwd=tmp_path, seconds=300, **environment)
    assert "2 ranks on" in said and len(trial.losses()) == 2
