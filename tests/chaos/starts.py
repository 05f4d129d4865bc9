"""One start of a small job with real ranks: torchrun's own main(), or our launcher, in a forked process.

PyTorch and the training package are imported once, here; each start is two forks (`--run-path --start-method fork`),
so that hundreds of them fit into minutes. `exec` starts are what a user types, with all imports anew.
"""

import contextlib
import ctypes
import json
import os
import resource
import signal
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path

from tests.helpers import ROOT
from tests.helpers.warm import RANK

from .stream import note_samples

SCRIPTS = {"sft": ROOT / "launch/pretrain_sft.sh", "dpo": ROOT / "launch/train_dpo.sh"}
_SUBREAPER = 36  # PR_SET_CHILD_SUBREAPER


def prepare() -> None:
    """Import what ranks need, and become the parent of every process that loses its own."""
    import tensorboard.compat  # noqa: F401
    import transformers.models.qwen2.tokenization_qwen2  # noqa: F401

    import editcaption_mega.training  # noqa: F401

    ctypes.CDLL(None).prctl(_SUBREAPER, 1, 0, 0, 0)


@dataclass
class Job:
    """What is started again and again in one folder."""

    kind: str  # sft | dpo
    ranks: int
    config: Path
    output: Path


@dataclass
class Started:
    pid: int  # of torchrun, the launcher, or the one rank
    log: Path

    def ranks(self) -> list[int]:
        return sorted(children(self.pid))

    def workers(self) -> list[int]:
        """The processes that read rows, of all ranks."""
        return [pid for rank in self.ranks() for pid in sorted(children(rank)) if b"serve(" in _command(pid)]

    def code(self) -> int | None:
        """The exit code, negative for a signal; None while it runs."""
        try:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
        except ChildProcessError:
            return 0
        if not pid:
            return None
        self.ended = os.waitstatus_to_exitcode(status)
        return self.ended

    def wait(self, limit: float = 150.0) -> int:
        deadline = time.monotonic() + limit
        while (code := self.code()) is None:
            if time.monotonic() > deadline:
                if not self.ranks():
                    # A signal that finds torchrun in os.fork: its handler raises where logging would release its
                    # lock. Only forked starts have that; the ranks have ended as they should.
                    print("torchrun itself hangs after the end of its ranks: killed", flush=True)
                    self.send(signal.SIGKILL)
                    continue
                raise TimeoutError(f"a start did not end within {limit:.0f} s; its log: {self.log.read_text()[-2000:]}")
            time.sleep(0.02)
        return code

    def send(self, number: int, *pids: int) -> None:
        for pid in pids or (self.pid,):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, number)


def start(job: Job, log: Path, how: str, overrides: list[str] | None = None, **environment: str) -> Started:
    """how: torchrun | launcher (both forked), exec-torchrun | exec-bash. `environment` is for the ranks."""
    arguments = [str(SCRIPTS[job.kind]), str(job.config), *(overrides or [])]
    options = ["--standalone", "--nproc-per-node", str(job.ranks)]
    values = {"OMP_NUM_THREADS": "1", "PYTHONUNBUFFERED": "1", "NPROC_PER_NODE": str(job.ranks), **environment}
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    try:
        if how.startswith("exec-"):
            command = {
                "exec-torchrun": [sys.executable, "-m", "torch.distributed.run", *options, *arguments],
                "exec-bash": ["bash", *arguments],
            }[how]
            process = subprocess.Popen(
                command, stdout=descriptor, stderr=descriptor, env={**os.environ, **values}, start_new_session=True
            )
            process.returncode = 0  # it is waited for here, not there
            return Started(process.pid, log)
        pid = os.fork()
        if pid == 0:
            _become(how, [*options, "--run-path", "--start-method", "fork", RANK, *arguments], values, descriptor)
        return Started(pid, log)
    finally:
        os.close(descriptor)


def _become(how: str, arguments: list[str], values: dict[str, str], log: int) -> None:
    """In the forked process: be torchrun, and end."""
    code = 1
    try:
        os.setsid()
        os.dup2(log, 1)
        os.dup2(log, 2)
        os.environ.update(values)
        if limit := values.get("CHAOS_FILE_SIZE"):
            signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
            resource.setrlimit(resource.RLIMIT_FSIZE, (int(limit), resource.RLIM_INFINITY))
        if point := values.get("CHAOS_POINT"):
            die_at(*json.loads(point))
        if notes := values.get("CHAOS_SAMPLES"):
            note_samples(notes)
        if how == "torchrun":
            from torch.distributed import run

            code = run.main(arguments) or 0
        else:
            from editcaption_mega import launcher

            code = launcher.main(arguments)
    except SystemExit as exit:
        code = exit.code if isinstance(exit.code, int) else 1
    except BaseException as error:  # torchrun's own exceptions are its way to fail
        print(f"{type(error).__name__}: {error}", file=sys.stderr, flush=True)
    finally:
        os._exit(code)


def die_at(rank: int, number: int, under: str) -> None:
    """In a process that forks ranks: rank `rank` kills itself at its `number`-th change of a file below `under`.

    Python tells such moments to audit hooks: each open for writing, rename, removal and new folder."""
    seen = 0
    changes = {"open", "os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.truncate", "shutil.rmtree", "os.utime"}

    def hook(event: str, arguments: tuple) -> None:
        nonlocal seen
        if event not in changes or os.environ.get("LOCAL_RANK") != str(rank):
            return
        path = arguments[0]
        if event == "open" and not (arguments[2] & (os.O_WRONLY | os.O_RDWR | os.O_CREAT)):
            return
        if isinstance(path, str | os.PathLike) and str(path).startswith(under):
            seen += 1
            if seen == number:
                os.write(2, f"CHAOS: rank {rank} dies before {event} of {path}\n".encode())
                os.kill(os.getpid(), signal.SIGKILL)

    sys.addaudithook(hook)


def _command(pid: int) -> bytes:
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/cmdline").read_bytes()
    return b""


def children(parent: int) -> set[int]:
    from editcaption_mega.launcher import children

    return children(parent)


def orphans() -> set[int]:
    """Ranks whose torchrun is gone: they are this process's children now."""
    while True:
        try:
            if not os.waitpid(-1, os.WNOHANG)[0]:
                break
        except ChildProcessError:
            break
    return children(os.getpid())
