"""The Slurm job that this process is in, by its environment and scontrol."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

# States of a node whose processes may be gone, or soon will be.
_LOST = re.compile(r"DOWN|FAIL|NOT_RESPONDING|UNKNOWN|REBOOT")


@dataclass(frozen=True)
class SlurmJob:
    """What Slurm gave to this job."""

    number: str
    node_list: str  # in Slurm's form: n[0-3]
    num_nodes: int
    cpus_per_node: int
    in_step: bool  # whether this process is in a step of the job already, such as the shell of `srun --pty bash`
    tasks_of_step: int
    node_of_step: int
    nodes_of_step: int

    @classmethod
    def from_environment(cls, environment: Mapping[str, str]) -> SlurmJob | None:
        """None outside Slurm."""
        if not environment.get("SLURM_JOB_ID"):
            return None

        def number(name: str, default: int) -> int:
            found = re.match(r"\d+", environment.get(name, ""))
            return int(found.group()) if found else default

        nodes = number("SLURM_NNODES", 1)
        return cls(
            environment["SLURM_JOB_ID"], environment.get("SLURM_JOB_NODELIST", ""), nodes,
            number("SLURM_CPUS_ON_NODE", 1), "SLURM_STEP_ID" in environment, number("SLURM_STEP_NUM_TASKS", 1),
            number("SLURM_NODEID", 0), number("SLURM_STEP_NUM_NODES", nodes),
        )  # fmt: skip

    def fields(self) -> dict[str, str]:
        """What `scontrol show job` says, by name; nothing where it does not answer."""
        return _fields(scontrol("show", "job", self.number))

    def is_running(self) -> bool:
        """Whether it is, and not being canceled, requeued or ended."""
        return self.fields().get("JobState") == "RUNNING"

    def can_requeue(self) -> bool:
        fields = self.fields()
        return fields.get("BatchFlag") not in (None, "0") and fields.get("Requeue") == "1"

    def requeue(self) -> bool:
        return subprocess.run(["scontrol", "requeue", self.number]).returncode == 0

    def hosts(self) -> list[str]:
        """Names of its nodes, as it was started."""
        return scontrol("show", "hostnames", self.node_list).split()

    def address(self, node: str = "") -> str:
        """Slurm's address of a node (the first), which need not be a name that every machine resolves."""
        name = node or (self.hosts() or ["localhost"])[0]
        return _fields(scontrol("show", "node", name)).get("NodeAddr", name)

    def nodes_up(self) -> list[str]:
        """Nodes that answer and are still the job's: of one that outlives its nodes Slurm takes those that are down."""
        held = _held(self.fields())
        states = [_fields(line) for line in scontrol("--oneliner", "show", "node", self.node_list).splitlines()]
        lost = {fields.get("NodeName", "") for fields in states if _LOST.search(fields.get("State", ""))}
        return [host for host in self.hosts() if host in held and host not in lost]

    def lost_its_script(self) -> bool:
        """Whether the job goes on without the node of its batch script, and so without anybody who ends it."""
        fields = self.fields()
        running = fields.get("JobState") == "RUNNING" and fields.get("BatchFlag") == "1"
        return running and fields.get("BatchHost", "") not in _held(fields)

    def folder(self) -> Path:
        """Where the job's own files are: beside its log, which every user knows, or here."""
        log = self.fields().get("StdOut", "")
        return (Path(log).parent if log.startswith("/") and log != "/dev/null" else Path.cwd()) / f"slurm-{self.number}"


def scontrol(*words: str) -> str:
    try:
        return subprocess.run(["scontrol", *words], capture_output=True, text=True).stdout
    except OSError:
        return ""


def _held(fields: Mapping[str, str]) -> list[str]:
    """The nodes that the job has at present."""
    return scontrol("show", "hostnames", fields.get("NodeList", "")).split()


def _fields(text: str) -> dict[str, str]:
    """Name=value pairs of scontrol's output; a value goes to the next name, so it may have spaces."""
    name = r"[A-Z][A-Za-z_/:]*="
    pairs = re.findall(rf"(?:^|\s)({name})(.*?)(?=\s+{name}|\s*$)", text, re.DOTALL)
    return {key[:-1]: value.strip() for key, value in pairs}
