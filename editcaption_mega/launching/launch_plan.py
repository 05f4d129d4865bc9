"""What will be started, and where: decided from the environment alone, printed by --dry-run, then done."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from editcaption_mega import job_outcome

from .nodes import NodeCounts
from .slurm_job import SlurmJob
from .variables import missing

STEP = "EDITCAPTION_STEP"  # set in the tasks of a step that a batch script of ours has started
_PORTS = range(20000, 32768)  # below those that Linux gives out by itself


@dataclass(frozen=True)
class LaunchPlan:
    """How this process goes on: it becomes `command`, or, with a `job`, starts it as a step and sees it to its end."""

    command: list[str]
    environment: dict[str, str]  # to be added to this process's
    ranks_per_node: int
    num_nodes: int = 1
    job: SlurmJob | None = None
    folder: Path | None = None  # of the job's own files
    where: str = "on this machine"
    notes: list[str] = field(default_factory=list)
    nodes: Sequence[str] = ()  # of the step
    counts: NodeCounts = NodeCounts(1, 1)
    step: list[str] = field(default_factory=list)  # of the command, what stands behind the choice of nodes

    def on_nodes(self, nodes: Sequence[str]) -> LaunchPlan:
        """The same step on these nodes of the job: what is left of an earlier step on others is not waited for."""
        assert self.job is not None
        environment = dict(self.environment)
        # Where ranks meet moves with the first node, unless the user has named a place.
        if nodes[0] != self.nodes[0] and environment["MASTER_ADDR"] == self.job.address(self.nodes[0]):
            environment["MASTER_ADDR"] = self.job.address(nodes[0])
        return replace(
            self, command=_srun(len(nodes), nodes, ["--overlap", *self.step]), environment=environment,
            num_nodes=len(nodes), nodes=nodes, where=_where(",".join(nodes), self.job),
        )  # fmt: skip


def plan_launch(script: str, arguments: list[str], environment: Mapping[str, str]) -> LaunchPlan:
    """The plan of this process. Raises ValueError for what cannot be started here."""
    ranks = _ranks_per_node(environment)
    added = {**missing(environment, ranks), "NPROC_PER_NODE": str(ranks)}
    job = SlurmJob.from_environment(environment)
    if job is None or (job.in_step and job.num_nodes == 1 and STEP not in environment):
        return LaunchPlan(_local(script, arguments, ranks), added, ranks)
    # A step of the user's own with a task for each node; a shell of `srun --pty` has a terminal.
    if STEP in environment or (job.in_step and job.tasks_of_step == job.num_nodes and not sys.stdin.isatty()):
        return _node_of(job, script, arguments, added, environment)
    return _step_of(job, script, arguments, added, environment)


def _local(script: str, arguments: list[str], ranks: int) -> list[str]:
    if ranks == 1:
        return [sys.executable, script, *arguments]
    options = ["--standalone", "--nproc-per-node", str(ranks)]
    return [sys.executable, "-m", "editcaption_mega.launcher", *options, script, *arguments]


def _node_of(
    job: SlurmJob, script: str, arguments: list[str], added: dict[str, str], environment: Mapping[str, str]
) -> LaunchPlan:
    """One node's ranks, in a step with a task for each node."""
    ranks = int(added["NPROC_PER_NODE"])
    if job.nodes_of_step == 1:
        return LaunchPlan(_local(script, arguments, ranks), added, ranks)
    meeting = _meeting_point(job, environment)
    command = [
        sys.executable, "-m", "editcaption_mega.launcher", "--nnodes", str(job.nodes_of_step),
        "--node-rank", str(job.node_of_step), "--nproc-per-node", str(ranks),
        "--master-addr", meeting["MASTER_ADDR"], "--master-port", meeting["MASTER_PORT"], script, *arguments,
    ]  # fmt: skip
    where = f"as node {job.node_of_step} of {job.nodes_of_step}"
    return LaunchPlan(command, {**added, **meeting}, ranks, job.nodes_of_step, where=where)


def _step_of(
    job: SlurmJob, script: str, arguments: list[str], added: dict[str, str], environment: Mapping[str, str]
) -> LaunchPlan:
    """The batch script, or a shell in an allocation: one task for each node runs the script again, as its node's."""
    root = Path(script).resolve().parents[1]
    ranks, folder = int(added["NPROC_PER_NODE"]), job.folder()
    counts = NodeCounts.from_environment(environment, job.num_nodes)
    nodes = job.hosts()[: counts.wanted]
    added = {
        **added, **_meeting_point(job, environment), STEP: "1", "EDITCAPTION_ROOT": str(root),
        job_outcome.JOB_FOLDER: str(folder),
    }  # fmt: skip
    # The first task that fails ends the others at once; none is ended because another was quicker to leave (--wait=0).
    # A task has all cores and memory of its node: Slurm's own share is one core, and srun does not inherit what sbatch
    # was given. --export: a site, or sbatch --export=NONE, may have it otherwise.
    step = [
        "--ntasks-per-node=1", "--kill-on-bad-exit=1", "--wait=0", "--export=ALL", "--mem=0", "--cpu-bind=none",
        f"--cpus-per-task={job.cpus_per_node}",
    ]  # fmt: skip
    image = environment.get("CONTAINER_IMAGE", "")
    if image:
        in_container, wrap = _container(image, root, environment)
        added["EDITCAPTION_CONTAINER"] = image
    else:
        in_container, wrap = [], []
    step += [*in_container, *shlex.split(environment.get("SRUN_ARGS", "")), *wrap, "bash", script, *arguments]
    command = _srun(counts.wanted, nodes if counts.spares else (), ["--overlap", *step] if job.in_step else step)
    notes = _banner(root, environment)
    if counts.outlives_nodes:
        reserve = ", ".join(job.hosts()[counts.wanted :]) or "no node"
        notes.append(f"in reserve: {reserve}; the job survives with {counts.fewest} or more (sbatch --no-kill)")
    where = _where(",".join(nodes) if counts.spares else job.node_list, job)
    return LaunchPlan(
        command, added, ranks, counts.wanted, job, folder, where, notes, nodes=nodes, counts=counts, step=step
    )


def _where(nodes: str, job: SlurmJob) -> str:
    return f"on {nodes}, {job.cpus_per_node} cores each"


def _srun(count: int, nodes: Sequence[str], step: Sequence[str]) -> list[str]:
    """nodes: none where it is all that the job has."""
    names = [f"--nodelist={','.join(nodes)}"] if nodes else []
    return ["srun", f"--nodes={count}", f"--ntasks={count}", *names, *step]


def _ranks_per_node(environment: Mapping[str, str]) -> int:
    """NPROC_PER_NODE, else the GPUs of the node, else 1. Raises ValueError."""
    said = environment.get("NPROC_PER_NODE", "")
    if said:
        if not said.isdigit() or int(said) < 1:
            raise ValueError(f"NPROC_PER_NODE is {said!r}, expected the number of ranks of each node, from 1 on")
        return int(said)
    gpus = environment.get("SLURM_GPUS_ON_NODE", "")
    if not gpus.isdigit() and shutil.which("nvidia-smi"):
        listed = subprocess.run(["nvidia-smi", "-L"], capture_output=True, text=True).stdout
        gpus = str(sum(line.startswith("GPU") for line in listed.splitlines()))
    return max(1, int(gpus)) if gpus.isdigit() else 1


def _meeting_point(job: SlurmJob, environment: Mapping[str, str]) -> dict[str, str]:
    """Where the ranks of all nodes meet: on the first one, at a port that is free there."""
    address = environment.get("MASTER_ADDR") or job.address()
    return {"MASTER_ADDR": address, "MASTER_PORT": environment.get("MASTER_PORT") or str(free_port(int(job.number)))}


def free_port(number: int) -> int:
    """A port for job `number`, free on this machine: others there have other numbers, and begin at other ports."""
    for i in range(len(_PORTS)):
        port = _PORTS[(number + i) % len(_PORTS)]
        with socket.socket() as probe:
            try:
                probe.bind(("", port))
            except OSError:
                continue
            return port
    raise ValueError(f"no port from {_PORTS.start} to {_PORTS.stop - 1} is free here: set MASTER_PORT")


def _container(image: str, root: Path, environment: Mapping[str, str]) -> tuple[list[str], list[str]]:
    """Options for srun, and what stands before the node's command. The checkout and the working folder are mounted."""
    folders = [str(root), os.getcwd(), *filter(None, environment.get("CONTAINER_MOUNTS", "").split(","))]
    mounts = ",".join(folder if ":" in folder else f"{folder}:{folder}" for folder in dict.fromkeys(folders))
    default = "apptainer" if image.endswith(".sif") else "pyxis"
    runtime = environment.get("CONTAINER_RUNTIME", default)
    if runtime == "pyxis":
        return [f"--container-image={image}", f"--container-mounts={mounts}", f"--container-workdir={os.getcwd()}"], []
    if runtime in ("apptainer", "singularity"):
        return [], [runtime, "exec", "--nv", "--bind", mounts, "--pwd", os.getcwd(), image]
    raise ValueError(f"CONTAINER_RUNTIME is {runtime!r}, expected pyxis, apptainer or singularity")


def _banner(root: Path, environment: Mapping[str, str]) -> list[str]:
    """What code runs: the checkout, and its commit where git can tell it."""
    try:
        git = ["git", "-C", str(root), "describe", "--always", "--dirty", "--abbrev=12"]
        commit = subprocess.run(git, capture_output=True, text=True).stdout.strip()
    except OSError:
        commit = ""
    restart = environment.get("SLURM_RESTART_COUNT", "0")
    return [f"checkout {root}" + (f" at commit {commit}" if commit else "") + f", start {int(restart) + 1} of the job"]


def lines(plan: LaunchPlan) -> list[str]:
    """The plan for people: what is started where, and each command as a shell would take it."""
    ranks = plan.num_nodes * plan.ranks_per_node
    nodes = (
        f"{plan.num_nodes} node{'s' * (plan.num_nodes > 1)} x {plan.ranks_per_node} = {ranks} rank{'s' * (ranks > 1)}"
    )
    job = f"Slurm job {plan.job.number}: " if plan.job else ""
    return [f"{job}{nodes} {plan.where}", *plan.notes, shlex.join(plan.command)]
