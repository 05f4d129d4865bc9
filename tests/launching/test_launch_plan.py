"""What is started where, from an environment: nothing is started here. On a real Slurm: test_real_slurm.py."""

import ast
import os
import shlex
import socket
import subprocess
import sys

import pytest

from editcaption_mega.launching import launch_plan, variables
from editcaption_mega.launching.launch_plan import free_port, plan_launch
from editcaption_mega.launching.slurm_job import _fields
from tests.helpers import ROOT

SCRIPT = str(ROOT / "launch/pretrain_sft.sh")
SCONTROL = """#!/bin/bash
case "$*" in
    "show hostnames "*) echo node-1; echo node-2;;
    "show node "*) echo "NodeName=$3 Arch=x86_64 NodeAddr=10.0.0.${3#node-} State=IDLE";;
    "show job 7") echo "JobId=7 JobState=RUNNING Requeue=1 BatchFlag=1 StdOut=$LOGS/my log/train.out Power=";;
esac
"""
BATCH = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_NNODES": "2", "SLURM_CPUS_ON_NODE": "96"}


@pytest.fixture
def slurm(tmp_path, monkeypatch):
    """scontrol made up -> the environment of a batch script on two nodes of eight GPUs."""
    (tmp_path / "scontrol").write_text(SCONTROL)
    (tmp_path / "scontrol").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    monkeypatch.setenv("LOGS", str(tmp_path))
    return {**BATCH, "SLURM_GPUS_ON_NODE": "8"}


def test_a_batch_script_starts_one_task_on_each_node_with_all_of_it(slurm, tmp_path):
    plan = plan_launch(SCRIPT, ["c.yaml", "a=b c"], slurm)
    assert plan.job and plan.num_nodes == 2 and plan.ranks_per_node == 8
    assert plan.command[0] == "srun" and plan.command[-4:] == ["bash", SCRIPT, "c.yaml", "a=b c"]
    wanted = "--nodes=2 --ntasks-per-node=1 --kill-on-bad-exit=1 --wait=0 --export=ALL --mem=0 --cpus-per-task=96"
    assert set(wanted.split()) <= set(plan.command) and "--overlap" not in plan.command
    assert plan.environment["MASTER_ADDR"] == "10.0.0.1" and plan.environment["OMP_NUM_THREADS"] == "1"
    assert plan.folder == tmp_path / "my log/slurm-7" and plan.environment["EDITCAPTION_JOB_FOLDER"] == str(plan.folder)


def test_a_task_starts_its_node_s_ranks(slurm):
    task = slurm | {"EDITCAPTION_STEP": "1", "MASTER_ADDR": "10.0.0.9", "MASTER_PORT": "21000", "SLURM_NODEID": "1"}
    plan = plan_launch(SCRIPT, ["c.yaml"], task)
    words = f"--nnodes 2 --node-rank 1 --nproc-per-node 8 --master-addr 10.0.0.9 --master-port 21000 {SCRIPT} c.yaml"
    assert plan.job is None and shlex.join(plan.command).endswith(f"-m editcaption_mega.launcher {words}")
    own = {name: value for name, value in task.items() if name != "EDITCAPTION_STEP"}
    own |= {"SLURM_STEP_ID": "0", "SLURM_STEP_NUM_TASKS": "2"}  # srun by the user, a task for each node
    assert plan_launch(SCRIPT, ["c.yaml"], own).command == plan.command


def test_in_a_step_already(slurm):
    """A shell in an allocation: its own machine alone, or a step beside it, which may not wait for it."""
    shell = slurm | {"SLURM_STEP_ID": "4294967290"}
    plan = plan_launch(SCRIPT, ["c.yaml"], shell | {"SLURM_NNODES": "1"})
    assert plan.job is None and "--standalone" in plan.command
    assert "--overlap" in plan_launch(SCRIPT, ["c.yaml"], shell).command


def test_a_job_with_a_spare_node_starts_on_the_others_and_can_move(slurm):
    plan = plan_launch(SCRIPT, ["c.yaml"], slurm | {"SPARE_NODES": "1"})
    assert plan.command[:4] == ["srun", "--nodes=1", "--ntasks=1", "--nodelist=node-1"] and plan.num_nodes == 1
    assert any(line.startswith("in reserve: node-2;") for line in plan.notes)
    moved = plan.on_nodes(["node-2"])
    assert moved.command == ["srun", "--nodes=1", "--ntasks=1", "--nodelist=node-2", "--overlap", *plan.command[4:]]
    assert moved.environment == plan.environment | {"MASTER_ADDR": "10.0.0.2"} and "on node-2," in moved.where
    named = plan_launch(SCRIPT, ["c.yaml"], slurm | {"SPARE_NODES": "1", "MASTER_ADDR": "10.9.9.9"})
    assert named.on_nodes(["node-2"]).environment["MASTER_ADDR"] == "10.9.9.9"
    with pytest.raises(ValueError, match="SPARE_NODES is '2', expected .* from 0 to 1"):
        plan_launch(SCRIPT, ["c.yaml"], slurm | {"SPARE_NODES": "2"})
    without = plan_launch(SCRIPT, ["c.yaml"], slurm)
    assert "--nodelist" not in shlex.join(without.command) and not any("reserve" in line for line in without.notes)


def test_a_task_of_a_step_on_some_of_the_nodes_meets_these(slurm):
    task = slurm | {"EDITCAPTION_STEP": "1", "SLURM_NNODES": "3", "SLURM_STEP_NUM_NODES": "2", "SLURM_NODEID": "1"}
    plan = plan_launch(SCRIPT, ["c.yaml"], task)
    assert "--nnodes 2 --node-rank 1 " in shlex.join(plan.command) and plan.where == "as node 1 of 2"
    assert "--standalone" in plan_launch(SCRIPT, ["c.yaml"], task | {"SLURM_STEP_NUM_NODES": "1"}).command


def test_without_slurm():
    assert plan_launch(SCRIPT, ["c.yaml"], {"NPROC_PER_NODE": "1"}).command == [sys.executable, SCRIPT, "c.yaml"]
    plan = plan_launch(SCRIPT, ["c.yaml"], {"NPROC_PER_NODE": "3"})
    assert shlex.join(plan.command).endswith(f"--standalone --nproc-per-node 3 {SCRIPT} c.yaml")
    for wrong in ("0", "many", "-1"):
        with pytest.raises(ValueError, match=f"NPROC_PER_NODE is '{wrong}'"):
            plan_launch(SCRIPT, [], {"NPROC_PER_NODE": wrong})


def test_a_container_holds_the_task_and_not_srun(slurm):
    slurm |= {"CONTAINER_IMAGE": "nvcr.io#nvidia/pytorch:26.08-py3", "CONTAINER_MOUNTS": "/lustre,/a:/b:ro"}
    slurm |= {"SRUN_ARGS": "--label --network='no vni'"}
    plan = plan_launch(SCRIPT, ["c.yaml"], slurm)
    here = os.getcwd()
    mounts = ",".join([f"{folder}:{folder}" for folder in dict.fromkeys([str(ROOT), here, "/lustre"])] + ["/a:/b:ro"])
    assert plan.command[-8:] == [
        "--container-image=nvcr.io#nvidia/pytorch:26.08-py3", f"--container-mounts={mounts}",
        f"--container-workdir={here}", "--label", "--network=no vni", "bash", SCRIPT, "c.yaml",
    ]  # fmt: skip
    plan = plan_launch(SCRIPT, ["c.yaml"], slurm | {"CONTAINER_IMAGE": "/images/train.sif"})
    words = ["apptainer", "exec", "--nv", "--bind", mounts, "--pwd", here, "/images/train.sif", "bash", SCRIPT]
    assert plan.command[-len(words) - 1 : -1] == words
    with pytest.raises(ValueError, match="CONTAINER_RUNTIME is 'podman', expected pyxis"):
        plan_launch(SCRIPT, [], slurm | {"CONTAINER_RUNTIME": "podman"})


def test_a_port_that_is_taken_is_not_given_out():
    port = free_port(123)
    assert port in launch_plan._PORTS and max(launch_plan._PORTS) < 32768  # where Linux' own begin
    with socket.create_server(("", port)):
        assert free_port(123) not in (port, *range(20000, port))


def test_what_is_set_stays():
    added = variables.missing({"NCCL_DEBUG": "INFO", "PYTORCH_CUDA_ALLOC_CONF": ""}, ranks_per_node=8)
    assert "NCCL_DEBUG" not in added and "PYTORCH_CUDA_ALLOC_CONF" not in added
    assert added["CUDA_DEVICE_MAX_CONNECTIONS"] == "1" and added["OMP_NUM_THREADS"] == "1"
    assert "OMP_NUM_THREADS" not in variables.missing({}, ranks_per_node=1)
    assert all(reason for _, reason in variables.DEFAULTS.values())


def test_scontrol_s_fields():
    text = "JobId=7 JobName=my job\n   Command=/a b/launch/x.sh c.yaml\n   StdOut=/a b/7.out\n   Power=\n"
    assert _fields(text) == {
        "JobId": "7", "JobName": "my job", "Command": "/a b/launch/x.sh c.yaml", "StdOut": "/a b/7.out", "Power": "",
    }  # fmt: skip


def test_the_machine_of_a_batch_script_needs_no_more_than_an_old_python():
    """Its ranks may have theirs in a container."""
    package = ROOT / "editcaption_mega"
    files = [*sorted((package / "launching").glob("*.py")), package / "job_outcome.py", package / "__init__.py"]
    assert len(files) >= 7
    allowed = sys.stdlib_module_names | {"editcaption_mega", "__future__"}
    for path in files:
        tree = ast.parse(path.read_text(encoding="utf-8"), feature_version=(3, 9))
        for node in ast.walk(tree):
            names = [alias.name for alias in node.names] if isinstance(node, ast.Import) else []
            names += [node.module] if isinstance(node, ast.ImportFrom) and not node.level else []
            assert {name.split(".")[0] for name in names} <= allowed, path


def test_dry_run_says_what_would_be_started(tmp_path):
    """From another folder, whose files are not touched; and settings are looked at as the job would."""
    environment = {**os.environ, "NPROC_PER_NODE": "2", "EDITCAPTION_ROOT": ""}

    def dry_run(*words, **variables):
        command = ["bash", SCRIPT, "--dry-run", *words]
        return subprocess.run(
            command, env={**environment, **variables}, cwd=tmp_path, capture_output=True, text=True, timeout=300
        )

    done = dry_run("no such file.yaml", "training.steps=3")
    assert "1 node x 2 = 2 ranks on this machine\n" in done.stdout
    assert f"--nproc-per-node 2 {SCRIPT} 'no such file.yaml' training.steps=3\n" in done.stdout
    assert "export CUDA_DEVICE_MAX_CONNECTIONS=1\n" in done.stdout and "nothing was started" not in done.stdout
    assert done.returncode == 2 and "no such file.yaml does not exist" in done.stderr
    assert list(tmp_path.iterdir()) == []
    for folder, file in (("model", "config.json"), ("shards", "index.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    (tmp_path / "job.yaml").write_text(
        "model: {folder: model}\ndata: {shards: [shards]}\ntraining: {steps: 3, output: run}\n"
    )
    done = dry_run("job.yaml")
    assert done.returncode == 0 and "can be used: 2 ranks" in done.stdout, done.stderr
    assert "nothing was started" in done.stdout and not (tmp_path / "run").exists()
    assert dry_run("job.yaml", "parallel.tensor_model_parallel_size=3").returncode
    done = dry_run("no such file.yaml", CONTAINER_IMAGE="image.sqsh")
    assert done.returncode == 0 and "not looked at: the job's Python is in its container\n" in done.stdout


def test_the_four_scripts_look_for_the_checkout_in_the_same_way():
    finders = set()
    for name in ("pretrain_sft", "train_dpo", "batch_eval", "caption"):
        text = (ROOT / f"launch/{name}.sh").read_text(encoding="utf-8")
        finders.add(text[text.index("root=") : text.index('root="$(cd')])
        compile(text, name, "exec", dont_inherit=True)
    assert len(finders) == 1
