"""A lock on a folder that several processes could write: a file that says who holds it, with a heartbeat.

It needs no flock, which network file systems may lack: creating a file that must not exist is one step everywhere. The
holder touches the file every BEAT seconds. A holder of this machine that is gone frees the lock at once; one of another
machine when no beat came for STALE seconds by the file server's clock. Whoever stood still for so long (a suspended
machine) and lost the folder learns it at its next beat.
"""

import dataclasses
import json
import os
import secrets
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from .files import PARTIAL, parse_json, write_atomically

NAME = "lock.json"
BEAT = 10.0
STALE = 120.0
PATIENCE = 3.0  # with a living holder of this machine: a rank whose launcher was killed needs a second to notice


class HeldError(ValueError):
    """Another process works in the folder."""


class LostError(ValueError):
    """Another process took the folder over, because this one gave no sign of life."""


@dataclass(frozen=True)
class Holder:
    """Who holds a lock. Processes can be looked up by those of the same `machine` only."""

    work: str  # what it does there: "training"
    host: str
    machine: str  # the running kernel and the process namespace; "" where they cannot be told
    pid: int
    started: str  # of the process, in the kernel's ticks: a number that is used again is another process
    since: str  # local time
    job: str  # Slurm's, "" outside
    stopping: bool  # it was asked to stop and will leave soon
    token: str

    @classmethod
    def this_process(cls, work: str) -> "Holder":
        pid, now = os.getpid(), time.strftime("%Y-%m-%d %H:%M:%S %z")
        job = os.environ.get("SLURM_JOB_ID", "")
        return cls(work, socket.gethostname(), _machine(), pid, _started(pid), now, job, False, secrets.token_hex(8))

    @classmethod
    def parse(cls, content: bytes) -> "Holder | None":
        """None for a file that is being written at this moment, or is none of ours."""
        try:
            values = parse_json(content)
            fields = {field.name: field.type for field in dataclasses.fields(cls)}
            if not isinstance(values, dict) or {k: type(v) for k, v in values.items()} != fields:
                return None
        except ValueError:
            return None
        return cls(**values)

    def is_known(self) -> bool:
        return bool(self.machine) and self.machine == _machine()

    def is_dead(self) -> bool:
        """True only where this machine can tell."""
        return self.is_known() and _started(self.pid) != self.started

    def __str__(self) -> str:
        job = f" (Slurm job {self.job})" if self.job else ""
        return f"{self.work} by process {self.pid} on {self.host}{job} since {self.since}"


class FolderLock:
    """`with FolderLock(folder, "training"):` holds folder/lock.json. A folder made for it goes again if empty."""

    def __init__(
        self,
        folder: str | os.PathLike[str],
        work: str,
        on_lost: Callable[[], None] = lambda: None,
        *,
        beat: float = BEAT,
        stale: float = STALE,
        patience: float = PATIENCE,
    ):
        self.folder, self.path, self.on_lost = Path(folder), Path(folder) / NAME, on_lost
        self.beat, self.stale, self.patience = beat, stale, patience
        self.holder = Holder.this_process(work)
        self._stop, self._lost, self._made = threading.Event(), False, False
        self._thread: threading.Thread | None = None

    def __enter__(self) -> "FolderLock":
        self.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.release()

    def acquire(self, say: Callable[[str], None] = print, give_up: Callable[[], object] = lambda: False) -> bool:
        """Hold the lock. Waits for a holder that is leaving, and until one elsewhere shows that it lives or is dead;
        False when `give_up` became true meanwhile. Raises HeldError for one that works there; OSError."""
        self._made = not self.folder.exists()
        first: tuple[str, float] | None = None
        began = time.monotonic()
        while not self._create(self.path) and not self._take_over():
            holder, beat = self._read(self.path)
            if beat is None:  # it was removed just now
                continue
            if holder is not None and not holder.stopping and not holder.is_dead():
                lives = first is not None and first != (holder.token, beat)
                if lives if not holder.is_known() else time.monotonic() - began >= self.patience:
                    raise HeldError(
                        f"{self.folder} is in use: {holder}. Wait for it, stop it, or choose another folder; if you "
                        f"are sure that it is gone, remove {self.path}"
                    )
            if give_up():
                return False
            if first is None:
                first = (holder.token if holder else "", beat)
                say(f"{self.folder} is in use: {holder or 'by a process without a name'}; waiting for it to end")
            time.sleep(0.2)
        self._stop.clear()
        self._thread = threading.Thread(target=self._beat, name="lock", daemon=True)
        self._thread.start()
        return True

    @property
    def is_lost(self) -> bool:
        """Whether another process has taken the folder over."""
        return self._lost

    def check(self) -> None:
        """Raises LostError when another process has taken the folder over."""
        if self._lost:
            raise LostError(
                f"{self.folder} was taken over by another process while this one gave no sign of life for "
                f"{self.stale:.0f} s: this one ends and leaves the folder to it"
            )

    def stopping(self) -> None:
        """Tell those who want the folder that it will be free soon."""
        self.holder = dataclasses.replace(self.holder, stopping=True)
        with suppress(OSError):  # a full disk: then they are told less
            if self._holds():
                write_atomically(self.path, self._content())

    def release(self) -> None:
        if self._thread is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        if self._holds():
            self.path.unlink(missing_ok=True)
        if self._made:
            with suppress(OSError):  # not empty: the work left something
                self.folder.rmdir()

    def _content(self) -> str:
        return json.dumps(dataclasses.asdict(self.holder)) + "\n"

    def _create(self, path: Path) -> bool:
        """Make that file, with who we are; False where it exists."""
        self.folder.mkdir(parents=True, exist_ok=True)
        try:
            with open(path, "x", encoding="utf-8") as file:
                file.write(self._content())
        except FileExistsError:
            return False
        return True

    def _read(self, path: Path) -> tuple[Holder | None, float | None]:
        """Who made that file and the time of the last beat; (None, None) where nobody did."""
        try:
            with open(path, "rb") as file:  # opened: a network file system then asks its server
                return Holder.parse(file.read()), os.fstat(file.fileno()).st_mtime
        except FileNotFoundError:
            return None, None

    def _is_left(self, path: Path) -> bool:
        """Whether that file is there and its maker gone."""
        holder, beat = self._read(path)
        if beat is None:
            return False
        if holder is not None and holder.is_known():
            return holder.is_dead()
        return self._age(beat) > self.stale

    def _age(self, beat: float) -> float:
        """Seconds since that beat, by the clock that it was written with: the file server's."""
        probe = self.path.with_name(f"{NAME}.{self.holder.token}{PARTIAL}")
        try:
            probe.write_bytes(b"")
            return probe.stat().st_mtime - beat
        except FileNotFoundError:  # its holder ended and took the folder with it
            return 0.0
        finally:
            probe.unlink(missing_ok=True)

    def _take_over(self) -> bool:
        """Replace the file of a dead holder. Of several that want to, the one that makes the second file does."""
        if not self._is_left(self.path):
            return False
        claim = self.path.with_name(f"{NAME}.claim")
        if not self._create(claim):
            if self._is_left(claim):  # that one was killed just here
                claim.unlink(missing_ok=True)
            return False
        try:
            if not self._is_left(self.path):
                return False
            write_atomically(self.path, self._content())
        finally:
            claim.unlink(missing_ok=True)
        return True

    def _holds(self) -> bool:
        holder, _ = self._read(self.path)
        return holder is not None and holder.token == self.holder.token

    def _beat(self) -> None:
        while not self._stop.wait(self.beat):
            with suppress(OSError):  # a server that is away for a moment; the next beat tries again
                if not self._holds() and not self._create(self.path):
                    self._lost = True
                    self.on_lost()
                    return
                os.utime(self.path)


def is_held(folder: str | os.PathLike[str]) -> bool:
    """Whether a process holds the folder's lock and is alive, as far as that can be told. Raises OSError."""
    lock = FolderLock(folder, "")
    return lock.path.exists() and not lock._is_left(lock.path)


def _machine() -> str:
    try:
        kernel = Path("/proc/sys/kernel/random/boot_id").read_text(encoding="ascii").strip()
        return f"{kernel} {os.readlink('/proc/self/ns/pid')}"
    except OSError:
        return ""


def _started(pid: int) -> str:
    """When a process of this machine was started, in the kernel's ticks; "" for one that is gone or a zombie."""
    try:
        status = Path(f"/proc/{pid}/stat").read_text(encoding="utf-8", errors="replace")
    except OSError:
        return ""
    state, *fields = status.rpartition(")")[2].split()
    return "" if state in "ZX" else fields[18]
