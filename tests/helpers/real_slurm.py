"""A real Slurm of two or more nodes on this machine, with folders, ports and keys of its own.

Jobs that hold all nodes; partitions `low` (preempted with 60 s of grace) and `high`. Programs of Slurm and munge must
be installed (apt-get install slurm-wlm munge) and the tests run as root, whose daemons these are.
"""

import contextlib
import os
import random
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path

from tests.helpers import ROOT

PROGRAMS = ("setpriv", "munged", "slurmctld", "slurmd", "sbatch")
CONF = """ClusterName=lab
SlurmctldHost={host}(127.0.0.1)
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
ProctrackType=proctrack/linuxproc
TaskPlugin=task/affinity
SelectType=select/cons_tres
SelectTypeParameters=CR_Core
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool.%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.%n.log
SlurmctldPort={ports[0]}
SlurmdTimeout=20
KillWait=30
MinJobAge=3600
InactiveLimit=0
ReturnToService=2
SchedulerParameters=bf_interval=2,sched_interval=2
JobRequeue=1
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MpiDefault=none
AccountingStorageType=accounting_storage/none
JobCompType=jobcomp/none
PartitionName=low Nodes=ALL Default=YES MaxTime=INFINITE State=UP PriorityTier=1 GraceTime=60 OverSubscribe=NO
PartitionName=high Nodes=ALL MaxTime=INFINITE State=UP PriorityTier=10 PreemptMode=OFF
"""
PATIENCE = 1200.0  # seconds; on a busy machine every step of a job takes its time, and only what hangs takes as long
NODE = "NodeName={name} NodeHostname={host} NodeAddr=127.0.0.1 Port={port} CPUs={cpus} RealMemory=4000\n"


def why_not() -> str:
    """Why no Slurm can be started here; "" where it can."""
    missing = [name for name in PROGRAMS if not _program(name)]
    if missing:
        return f"{', '.join(missing)} not installed (slurm-wlm, munge)"
    return "" if os.geteuid() == 0 else "Slurm's daemons need root here"


def _program(name: str) -> str | None:
    return shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/usr/local/sbin")


def _ports_for_good(count: int) -> list[int]:
    """Free ports that the system gives to nobody who asks for any, so that a daemon which is started again, on the port
    that the others know, finds it free."""
    first = int(Path("/proc/sys/net/ipv4/ip_local_port_range").read_text().split()[0])
    ports: list[int] = []
    for port in random.sample(range(10_000, first), 1000):
        with contextlib.suppress(OSError), socket.create_server(("127.0.0.1", port)):
            ports.append(port)
        if len(ports) == count:
            return ports
    raise AssertionError(f"fewer than {count} of 1000 ports below {first} are free")


class RealSlurm:
    """`with RealSlurm(folder) as slurm:` runs it."""

    def __init__(self, folder: Path, nodes: int = 2):
        self.folder, self.nodes = folder, [f"n{i}" for i in range(nodes)]
        self.environment = {**os.environ, "SLURM_CONF": str(folder / "slurm.conf")}
        for name in [n for n in self.environment if n.startswith("SLURM_") and n != "SLURM_CONF"]:
            del self.environment[name]
        self.daemons: dict[str, subprocess.Popen] = {}

    def __enter__(self) -> "RealSlurm":
        (self.folder / "munge").mkdir(parents=True)
        (self.folder / "state").mkdir()
        for path in (self.folder, *self.folder.parents[:2]):
            path.chmod(0o755)  # munge wants folders that nobody else can write
        ports = _ports_for_good(1 + len(self.nodes))
        values = {"host": socket.gethostname(), "folder": self.folder, "ports": ports, "cpus": os.cpu_count()}
        conf, partitions = CONF[: CONF.index("PartitionName")], CONF[CONF.index("PartitionName") :]
        nodes = [NODE.format(name=name, port=port, **values) for name, port in zip(self.nodes, ports[1:], strict=True)]
        (self.folder / "slurm.conf").write_text(conf.format(**values) + "".join(nodes) + partitions)
        key = self.folder / "munge/key"
        key.write_bytes(secrets.token_bytes(128))
        key.chmod(0o400)
        munge = self.folder / "munge"
        files = [f"--{name}={munge / name}" for name in ("socket", "pid-file", "log-file", "seed-file")]
        self._start("munged", "--foreground", "--force", f"--key-file={key}", *files)
        self._start("slurmctld", "-D", "-c")
        for node in self.nodes:
            self.start_node(node)
        self.wait_idle()
        return self

    def __exit__(self, *_: object) -> None:
        with contextlib.suppress(AssertionError, OSError):
            self.run("scancel", "-u", "root")
            self.wait_for(lambda: not self.run("squeue", "-h").strip(), 60)
        for name in reversed(list(self.daemons)):
            self.daemons[name].terminate()
        for daemon in self.daemons.values():
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()

    def _start(self, name: str, *words: str) -> None:
        # They end with the tests, however these end.
        command = ["setpriv", "--pdeathsig", "KILL", _program(name), *words]
        with open(self.folder / f"{name}.out", "a") as file:
            process = subprocess.Popen(command, env=self.environment, stdout=file, stderr=file, start_new_session=True)
        self.daemons[" ".join([name, *words[-1:]] if name == "slurmd" else [name])] = process

    def start_node(self, node: str) -> None:
        self._start("slurmd", "-D", "-N", node)

    def wait_idle(self, seconds: float = PATIENCE) -> None:
        """Until all nodes are, in both partitions."""
        idle = ["idle"] * 2 * len(self.nodes)
        self.wait_for(lambda: self.run("sinfo", "-h", "-N", "-o", "%T").split() == idle, seconds, "idle nodes")

    def kill_node(self, node: str, *, with_processes: bool = False) -> None:
        """kill -9 of its slurmd; what it has started lives on, unless the whole machine is to be gone."""
        processes = self._processes_of(node) if with_processes else []
        self.daemons[f"slurmd {node}"].send_signal(signal.SIGKILL)
        for pid in processes:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        self.daemons[f"slurmd {node}"].wait()

    def _processes_of(self, node: str) -> list[int]:
        """Those of the node's tasks, behind those that watch them for Slurm, which must not live to tell of it."""
        tasks, watching = [], set()
        marks = {f"SLURMD_NODENAME={node}".encode(), f"SLURM_CONF={self.environment['SLURM_CONF']}".encode()}
        for path in Path("/proc").glob("[0-9]*"):
            try:
                if marks <= set((path / "environ").read_bytes().split(b"\0")):
                    tasks.append(int(path.name))
                    parent = (path / "stat").read_text().rpartition(")")[2].split()[1]
                    if b"slurmstepd" in Path(f"/proc/{parent}/cmdline").read_bytes():
                        watching.add(int(parent))
            except OSError:  # it ended meanwhile
                continue
        assert tasks and watching
        return [*watching, *tasks]

    def run(self, *words: str, cwd: Path = ROOT, seconds: float = 120, **environment: str) -> str:
        done = subprocess.run(
            words, cwd=cwd, env={**self.environment, **environment}, capture_output=True, text=True, timeout=seconds
        )
        assert done.returncode == 0, f"{words}: {done.returncode}: {done.stdout}{done.stderr}"
        return done.stdout

    def submit(self, *words: str | Path, cwd: Path = ROOT, **environment: str) -> "SubmittedJob":
        """sbatch with these words, `--output` among them."""
        number = self.run("sbatch", "--parsable", *map(str, words), cwd=cwd, **environment).strip()
        return SubmittedJob(self, number)

    @staticmethod
    def wait_for(condition, seconds: float, what: str = "it"):
        deadline = time.monotonic() + seconds
        while not (value := condition()):
            assert time.monotonic() < deadline, f"{what} took more than {seconds:.0f} s"
            time.sleep(0.3)
        return value


class SubmittedJob:
    def __init__(self, slurm: RealSlurm, number: str):
        self.slurm, self.number = slurm, number

    def field(self, name: str) -> str:
        text = self.slurm.run("scontrol", "show", "job", self.number)
        found = re.search(rf"(?:^|\s){name}=(.*?)(?=\s[A-Z]\w*=|\n)", text)
        return found.group(1) if found else ""

    @property
    def state(self) -> str:
        return self.field("JobState")

    @property
    def log(self) -> str:
        path = Path(self.field("StdOut"))
        return path.read_text(errors="replace") if path.is_file() else ""

    @property
    def folder(self) -> Path:
        return Path(self.field("StdOut")).parent / f"slurm-{self.number}"

    def wait_until(self, state: str, seconds: float = PATIENCE) -> None:
        try:
            self.slurm.wait_for(lambda: self.state == state, seconds, f"{state} of job {self.number}")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.state}; its log: {self.log[-4000:]}") from None

    def wait_says(self, text: str, seconds: float = PATIENCE) -> None:
        try:
            self.slurm.wait_for(lambda: text in self.log, seconds, f"{text!r}")
        except AssertionError as error:
            raise AssertionError(f"{error}; job is {self.state}; its log: {self.log[-4000:]}") from None

    def minutes(self) -> int:
        """Whole minutes, rounded up, for which it has run."""
        hours, minutes, seconds = map(int, self.field("RunTime").split(":"))
        return hours * 60 + minutes + (seconds > 0)

    def limit_to(self, minutes: int) -> None:
        """Another time limit."""
        self.slurm.run("scontrol", "update", f"JobId={self.number}", f"TimeLimit={minutes}")

    def start_now(self) -> None:
        """A requeued job waits for two minutes by itself."""
        self.wait_until("PENDING")
        deadline = time.monotonic() + PATIENCE
        while self.state == "PENDING":  # Slurm sets that time once more when the last of the job has ended
            assert time.monotonic() < deadline, f"job {self.number} does not start again: {self.log[-2000:]}"
            self.slurm.run("scontrol", "update", f"JobId={self.number}", "StartTime=now")
            time.sleep(2)

    def end(self, seconds: float = PATIENCE) -> str:
        """-> the state in which it ended."""
        ended = ("COMPLETED", "FAILED", "CANCELLED", "NODE_FAIL", "TIMEOUT", "PREEMPTED", "OUT_OF_MEMORY")
        try:
            return self.slurm.wait_for(lambda: self.state in ended and self.state, seconds, "the job's end")
        except AssertionError as error:
            raise AssertionError(f"{error}; it is {self.state}; its log: {self.log[-4000:]}") from None
