"""Checkpoints that cost training the time of a copy: what a step has made is copied, and a thread writes it.

    main thread    | step | copy | step | step | step | step | copy | step
    device         | ...   \\_ copies beside the next forward pass; the update waits for them
    this thread             \\_ write, fsync, tell each other, publish _/

A thread and no process: it stands in the kernel (`write`, `fsync`) or in the hash of a whole tensor, neither of which
holds Python's lock, and shares the copy without a second one. Its ranks talk over a group of their own, so their
messages and those of the steps never wait for each other.
"""

import queue
import threading
import time
from collections.abc import Callable

from megatron.core.optimizer import MegatronOptimizer

from editcaption_mega import platform
from editcaption_mega.conversion import LocalCopies, ParamShard
from editcaption_mega.settings import CheckpointSettings

from ..megatron_optimizer import before_updates, finish_gathers
from .contents import StoredRange, stored_ranges
from .publishing import CheckpointFolder, remove_old, write_best, write_checkpoint

_SECONDS_AFTER_FAILURE = 600.0  # that a job which fails waits for a checkpoint: its other ranks may be gone


class CheckpointSaver:
    """Saves the checkpoints of a run, one at a time. On every rank; `newest`, `begin` and `settle` are collective.

    say: takes lines for the log, on rank 0 and in the main thread. on_published: takes the step of each that is
    published, on rank 0 and in whichever thread. local: where this rank keeps copies of what it writes."""

    def __init__(
        self,
        settings: CheckpointSettings,
        param_shards: list[ParamShard],
        optimizer: MegatronOptimizer,
        *,
        published: int,
        say: Callable[[str], None],
        timeout_minutes: float = 30.0,
        on_published: Callable[[int], None] = lambda step: None,
        local: LocalCopies | None = None,
    ):
        self.settings, self.param_shards, self.optimizer = settings, param_shards, optimizer
        self.say, self.on_published, self.local = say, on_published, local
        self._published = published  # step of the newest checkpoint that is whole; 0: none
        self._group = platform.host_group(timeout_minutes)
        self._buffer = platform.HostBuffer()
        self._thread: threading.Thread | None = None
        self._error: Exception | None = None
        self._lines: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._ready = False

    def prepare(self) -> None:
        """Make the memory for the copies, beside a step. After the first one: the optimizer has its state then.
        Collective."""
        if self.settings.asynchronous and not self._ready:
            self._ready = True
            before_updates(self.optimizer, self._buffer.hold_back)
            tensors = [stored.values for stored in self._ranges()]

            def reserve() -> None:
                with platform.together(self._group):
                    self._buffer.reserve(tensors)

            self._start(reserve)

    def begin(self, folder: CheckpointFolder, *, required: bool) -> None:
        """Save the state of this moment. It is published when `settle` has returned, or earlier.

        required: an error is one of the job. Else a line says it, and training goes on."""
        self.settle()
        self.prepare()
        self.settle()
        finish_gathers(self.optimizer)
        if not self.settings.asynchronous:
            # Copied file by file while it is written, which takes less memory.
            self._save(folder, required, lambda: write_checkpoint(folder, self._ranges(), group=self._group))
            return
        began = time.monotonic()
        ranges = list(self._ranges())
        copies = self._buffer.copy([stored.values for stored in ranges])
        ranges = [stored._replace(values=copy) for stored, copy in zip(ranges, copies, strict=True)]
        stood = time.monotonic() - began

        def write() -> dict[str, str]:
            self._buffer.wait()
            return write_checkpoint(folder, ranges, group=self._group, copies=False)

        self._start(lambda: self._save(folder, required, write, stood))

    def settle(self) -> None:
        """Wait for the checkpoint that is being written, if any. Raises its error alike on every rank, but for one that
        training goes on without."""
        while self._thread is not None:
            self._thread.join(0.1)
            self.relay()
            if not self._thread.is_alive():
                self._thread = None
        self.relay()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def newest(self) -> int:
        """The step of the newest checkpoint that is whole, once none is being written; 0: there is none."""
        self.settle()
        return self._published

    def close(self) -> None:
        """Wait at the end of a job, however it ended, for what is being written."""
        if self._thread is not None:
            self._thread.join(_SECONDS_AFTER_FAILURE)
        self.relay()

    def relay(self) -> None:
        """Say the lines that have come from the thread."""
        while not self._lines.empty():
            self.say(self._lines.get())

    def _ranges(self) -> list[StoredRange]:
        return list(stored_ranges(self.param_shards, self.optimizer))

    def _start(self, work: Callable[[], None]) -> None:
        def run() -> None:
            platform.use_device()
            try:
                work()
            except Exception as error:
                self._error = error

        self._thread = threading.Thread(target=run, name="checkpoint", daemon=True)
        self._thread.start()

    def _save(
        self,
        folder: CheckpointFolder,
        required: bool,
        write: Callable[[], dict[str, str]],
        stood: float | None = None,
    ) -> None:
        """Write, again where that fails, and remove what is no longer needed. The same on every rank."""
        began = time.monotonic()
        try:
            digests = self._tried(write)
        except OSError as error:
            if required:
                error.add_note("make room, and the same command goes on from the newest checkpoint")
                raise
            self._say(
                f"WARNING: NO CHECKPOINT: {error}. Make room: training goes on, and tries again after "
                f"{self.settings.every} steps"
            )
            return
        self._published = folder.step
        if platform.is_rank_zero():
            self._tidy_up(folder, stood, time.monotonic() - began)
        self._keep_local(folder, digests)

    def _tidy_up(self, folder: CheckpointFolder, stood: float | None, seconds: float) -> None:
        """On rank 0, of a checkpoint that is published. stood: seconds of those that training waited."""
        self.on_published(folder.step)
        took = "" if stood is None else f", written in {seconds:.1f} s, for {stood:.1f} s of which training stood still"
        self._say(f"checkpoint saved: {folder.final}{took}")
        best = folder.best
        if best:
            if best["step"] == folder.step:
                self._say(f"checkpoint of step {folder.step} is the best so far: {best['metric']} {best['value']:.4f}")
            try:
                write_best(folder.output, best)
            except OSError as error:
                self._say(f"WARNING: {error}, so it does not say that the best checkpoint is that of {best['step']}")
        keep, keep_every = self.settings.keep, self.settings.keep_every
        for line in remove_old(folder.output, keep=keep, keep_every=keep_every, best=best["step"] if best else None):
            self._say(line)

    def _keep_local(self, folder: CheckpointFolder, digests: dict[str, str]) -> None:
        """A copy that cannot be written is said, and missed by nobody but the next start."""
        if self.local is None:
            return
        problem = None
        try:
            self.local.keep(folder.final, digests)
        except OSError as error:
            problem = f"{error.filename}: {error.strerror}" if error.filename else f"{error}"
        problems = [each for each in platform.gather(problem, self._group) if each is not None]
        if problems:
            ranks = "1 rank" if len(problems) == 1 else f"{len(problems)} ranks"
            self._say(
                f"WARNING: no copies on the nodes' disks of the files of {ranks} "
                f"(checkpoint.local_folder): {problems[0]}; a start there reads the checkpoint itself"
            )

    def _tried[Result](self, write: Callable[[], Result]) -> Result:
        again = 0
        while True:
            try:
                return write()
            except OSError as error:  # alike on every rank, so all of them try again
                if again == self.settings.retries:
                    raise
                seconds = self.settings.retry_seconds * 2**again
                again += 1
                self._say(f"{error}; trying again in {seconds:g} s ({again} of {self.settings.retries})")
                time.sleep(seconds)

    def _say(self, line: str) -> None:
        if not platform.is_rank_zero():
            return
        if threading.current_thread() is self._thread:
            self._lines.put(line)
        else:
            self.say(line)
