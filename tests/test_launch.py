"""What the launch scripts give to their ranks, with Slurm's commands made up."""

import os
import subprocess
import sys

import pytest

from tests.helpers import ROOT

SRUN = """#!/bin/bash
{ echo "$@"; env; } > "$SEEN"
"""
SCONTROL = """#!/bin/bash
[ "$2" = hostnames ] && echo node-1 || echo "NodeAddr=10.0.0.1 JobState=RUNNING"
"""


@pytest.fixture
def started(tmp_path):
    """script, environment -> what srun was called with, and what its ranks have in their environment."""
    for name, text in (("srun", SRUN), ("scontrol", SCONTROL)):
        (tmp_path / name).write_text(text)
        (tmp_path / name).chmod(0o755)

    def start(script: str, **environment: str) -> tuple[str, dict[str, str]]:
        seen = tmp_path / "seen"
        slurm = {"SLURM_JOB_ID": "7", "SLURM_JOB_NODELIST": "node-[1-2]", "SLURM_CPUS_ON_NODE": "96"}
        path = {"PATH": f"{tmp_path}:{os.environ['PATH']}", "SEEN": str(seen), "SLURM_GPUS_ON_NODE": "8"}
        kept = {name: value for name, value in os.environ.items() if not name.startswith(("CUDA", "PYTORCH", "NCCL"))}
        command = ["bash", str(ROOT / "launch" / script), "config.yaml", "training.steps=3"]
        done = subprocess.run(
            command, env=kept | slurm | path | environment, capture_output=True, text=True, timeout=60
        )
        assert done.returncode == 0, done.stderr
        arguments, *rest = seen.read_text().splitlines()
        return arguments, dict(line.split("=", 1) for line in rest if "=" in line)

    return start


@pytest.mark.parametrize("script", ["pretrain_sft.sh", "train_dpo.sh"])
def test_a_node_s_ranks_have_all_its_cores_and_memory_and_the_settings_that_speed_needs(started, script):
    arguments, environment = started(script)
    assert "--cpus-per-task=96" in arguments and "--cpu-bind=none" in arguments and "--mem=0" in arguments
    assert arguments.endswith(f"{script} config.yaml training.steps=3")
    assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "1"
    assert environment["PYTORCH_CUDA_ALLOC_CONF"] == "expandable_segments:True"
    assert environment["NCCL_GRAPH_REGISTER"] == "0"
    head = (ROOT / "launch" / script).read_text().partition("''':'")[0]
    assert "#SBATCH --exclusive\n" in head and "#SBATCH --mem=0\n" in head and "USR1@600" in head


def test_what_the_user_has_set_stays(started):
    _, environment = started("pretrain_sft.sh", CUDA_DEVICE_MAX_CONNECTIONS="8", PYTORCH_CUDA_ALLOC_CONF="")
    assert environment["CUDA_DEVICE_MAX_CONNECTIONS"] == "8"


def test_a_dry_run_under_a_launcher_of_one_s_own_looks_at_the_settings(tmp_path):
    """As a rank of torchrun: nothing is written, and no PyTorch is loaded."""
    for folder, file in (("model", "config.json"), ("shards", "index.json")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / file).write_text("{}")
    words = ["model.folder=model", "data.shards=[shards]", "training.output=run"]
    (tmp_path / "job.yaml").write_text("training: {steps: 3}\n")
    command = [sys.executable, str(ROOT / "launch/pretrain_sft.sh"), "--dry-run", "job.yaml", *words]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "WORLD_SIZE": "4", "RANK": "0"}

    def run(*more):
        return subprocess.run([*command, *more], cwd=tmp_path, env=environment, capture_output=True, text=True)

    done = run("parallel.tensor_model_parallel_size=2")
    assert (
        done.returncode == 0
        and "used: 4 ranks, in 2 groups, each with samples of its own, into run; nothing" in done.stdout
    ), done.stderr
    assert not (tmp_path / "run").exists()
    assert "4 ranks, each with samples of its own, into run; nothing" in run().stdout
    assert "4 ranks, all with the same samples, into run" in run("parallel.tensor_model_parallel_size=4").stdout
    assert "used: 1 rank, into run; nothing" in run("--gpus", "1").stdout
    done = run("parallel.tensor_model_parallel_size=3")
    assert done.returncode == 2 and "4 ranks are not a multiple of tensor x pipeline = 3" in done.stderr
    assert run("data.shards=[none]").returncode == 2
