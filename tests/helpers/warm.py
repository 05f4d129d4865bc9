"""Python programs as processes of their own, forked from a process that has the heavy imports behind it.

A new interpreter imports PyTorch, Megatron-Core and transformers for four to six seconds of CPU before a tool or a rank
does anything. `run` and `Popen` take the command that `subprocess` would take and give what it would give, without
those seconds. Behind them stands multiprocessing's server of forks, which has imported and done nothing else: no thread
and no state of the tests comes along. What a test says about starting itself belongs to `subprocess`.
"""

import atexit
import multiprocessing
import os
import runpy
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from multiprocessing import connection
from pathlib import Path

_IMPORTS = [
    "editcaption_mega.training",
    "editcaption_mega.curation",
    "editcaption_mega.evaluation.run",
    "hypothesis",
    "pytest",
    "tensorboard.compat",
    "torch.distributed.run",
    "transformers.models.qwen2.tokenization_qwen2",
    "transformers.models.qwen3_vl.modeling_qwen3_vl",
    "transformers.models.qwen3_vl_moe.modeling_qwen3_vl_moe",
]
RANK = str(Path(__file__).with_name("torchrun_rank.py"))
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(_IMPORTS)


class Popen:
    """What tests use of `subprocess.Popen`, its two outputs as text. `stderr=subprocess.STDOUT` joins them."""

    def __init__(
        self,
        command: Sequence[str | Path],
        *,
        env: Mapping[str, str] | None = None,
        cwd: str | Path | None = None,
        stderr: int | None = None,
    ):
        executable, *self.args = map(str, command)
        assert executable == sys.executable, f"{executable} is no Python program: start it with subprocess"
        outputs = [context.Pipe(duplex=False) for _ in range(1 if stderr == subprocess.STDOUT else 2)]
        sinks = [sink for _, sink in outputs]
        self._process = context.Process(
            target=_become, args=(self.args, dict(env or os.environ), str(cwd or os.getcwd()), sinks[0], sinks[-1])
        )
        self._process.start()
        for sink in sinks:
            sink.close()
        files = [os.fdopen(os.dup(source.fileno()), encoding="utf-8", errors="replace") for source, _ in outputs]
        self.stdout, self.stderr = files[0], files[1] if len(files) > 1 else None
        self.pid = self._process.pid
        self._lock = threading.Lock()  # the server says an exit code once, and several threads ask

    @property
    def returncode(self) -> int | None:
        with self._lock:
            return self._process.exitcode

    poll = returncode.fget

    def wait(self, timeout: float | None = None) -> int:
        connection.wait([self._process.sentinel], timeout)
        if self.returncode is None:
            raise subprocess.TimeoutExpired(self.args, timeout)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)

    def communicate(self, timeout: float | None = None) -> tuple[str, str | None]:
        texts: dict[str, str] = {}

        def read(name: str) -> None:
            with getattr(self, name) as file:
                texts[name] = file.read()

        readers = [threading.Thread(target=read, args=(name,)) for name in ("stdout", "stderr") if getattr(self, name)]
        for reader in readers:
            reader.start()
        try:
            self.wait(timeout)
        except subprocess.TimeoutExpired:
            self.kill()
            raise
        finally:
            for reader in readers:
                reader.join()
        return texts["stdout"], texts.get("stderr")


def run(command: Sequence[str | Path], *, timeout: float = 900.0, **options) -> subprocess.CompletedProcess[str]:
    """The program to its end, with both outputs."""
    process = Popen(command, **options)
    out, errors = process.communicate(timeout)
    return subprocess.CompletedProcess(list(command), process.returncode, out, errors)


# The same program by a new interpreter, for tests of starting.
run_cold = partial(subprocess.run, capture_output=True, text=True)


def run_ranks(command: Sequence[str | Path], count: int, *, timeout: float = 300.0, **environment: str) -> None:
    """The program on `count` ranks with the environment that torchrun gives, without torchrun.

    AssertionError with their outputs where one fails; the others are killed then."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    values = {**os.environ, "OMP_NUM_THREADS": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": port, **environment}
    ranks = [
        Popen(command, env={**values, "RANK": str(rank), "WORLD_SIZE": str(count)}, stderr=subprocess.STDOUT)
        for rank in range(count)
    ]
    with ThreadPoolExecutor(count) as pool:
        outputs = [pool.submit(rank.communicate) for rank in ranks]
        deadline = time.monotonic() + timeout
        while any(rank.returncode is None for rank in ranks):
            if any(rank.returncode for rank in ranks) or time.monotonic() > deadline:
                for rank in ranks:
                    rank.kill()
            time.sleep(0.02)
        texts = [output.result()[0][-6000:] for output in outputs]
    codes = [rank.returncode for rank in ranks]
    assert codes == [0] * count, f"the ranks of {list(map(str, command))} ended with {codes}:\n" + "\n".join(texts)


def torchrun(arguments: Sequence[str]) -> None:
    """Be torchrun, with ranks that are forks of this process instead of new interpreters."""
    from torch.distributed import run

    options = run.parse_args(arguments)
    script = ["-m", options.training_script] if options.module else [options.training_script]
    options.training_script_args = [*script, *options.training_script_args]
    options.training_script, options.module, options.run_path, options.start_method = RANK, False, True, "fork"
    run.run(options)


def execute(arguments: Sequence[str]) -> None:
    """What `python ARGUMENTS` does, in this process: a script, `-m MODULE` or `-c CODE`, as `__main__`."""
    kind, *rest = arguments
    if kind == "-c":
        sys.argv = ["-c", *rest[1:]]
        exec(compile(rest[0], "<string>", "exec"), {"__name__": "__main__"})
    elif kind == "-m":
        sys.argv = list(rest)
        runpy.run_module(rest[0], run_name="__main__", alter_sys=True)
    else:
        sys.argv = list(arguments)
        sys.path.insert(0, str(Path(kind).resolve().parent))
        runpy.run_path(kind, run_name="__main__")


def settle(environment: Mapping[str, str], out, errors) -> None:
    """Give this process, a fork of the server's, the environment and the outputs that it should have."""
    os.dup2(out.fileno(), 1)
    os.dup2(errors.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    import torch

    torch.set_num_threads(int(environment.get("OMP_NUM_THREADS", "1")))
    sys.stdout.reconfigure(line_buffering=True)


def _become(arguments: list[str], environment: dict[str, str], folder: str, out, errors) -> None:
    """In the forked process."""
    os.setsid()
    settle(environment, out, errors)
    os.chdir(folder)
    try:
        if arguments[:2] == ["-m", "torch.distributed.run"]:
            torchrun(arguments[2:])
        else:
            execute(arguments)
    finally:
        atexit._run_exitfuncs()
