"""The server that a job starts for itself: healthy before it is asked, started again when it dies, gone with the
job."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from editcaption_mega.inference.endpoint.secret import Secret
from editcaption_mega.inference.endpoint.transport import MIB, NoAnswer, Transport, wait_for
from editcaption_mega.settings import ServerSettings
from editcaption_mega.words import one_line, printable, without_credentials

from .programs import command_line, program_of

_GUARD = Path(__file__).with_name("guard.py")
_HEALTH_SECONDS = 10.0  # for one answer
_LOOK_SECONDS = 0.5  # between looks whether it is healthy
_END_SECONDS = 20.0  # that the guard takes at most
_TAIL_BYTES, _TAIL_LINES, _TAIL_LETTERS = 8192, 12, 900  # of the log, as an error quotes it


class ServerError(RuntimeError):
    """The server cannot be had; the sentence says what it said last and where its log is."""

    exit_code = 1


class OwnServer:
    """A context manager; `url` starts the server, or starts it again.

    log: the file to which its output is appended. say: told of each start. environment: variables of its own beside
    the job's. Raises SettingsError at once for a program that is not installed."""

    def __init__(
        self,
        settings: ServerSettings,
        log: Path,
        *,
        say: Callable[[str], object] = print,
        environment: Mapping[str, str] | None = None,
    ):
        self.settings, self.log, self._say = settings, log, say
        self._environment = dict(environment or {})
        self._program = program_of(settings)
        self._process: subprocess.Popen[bytes] | None = None
        self._url = ""
        self.starts = 0
        self._was_healthy = self._answered = False  # ever; since its last start
        self._problem = ""

    def __enter__(self) -> "OwnServer":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def alive(self) -> bool:
        return self._process is not None and self._process.poll() is None

    def url(self) -> str:
        """The address (up to /v1) of a server that is healthy: the one that runs, or one that is started for it.

        Raises ServerError when it was started `restarts` times again, or twice without ever becoming healthy."""
        while not self.is_healthy():
            self._note_problem()
            self.stop()
            if self.starts > (self.settings.restarts if self._was_healthy else min(1, self.settings.restarts)):
                times = f"{self.starts} times (server.restarts={self.settings.restarts})"
                never = "" if self._was_healthy else "never became healthy: it "
                raise ServerError(f"the server, started {times}, {never}{self._problem}; {self._last_words()}")
            self._start()
        return self._url

    def is_healthy(self) -> bool:
        return self.alive and _answers(self._url.removesuffix("/v1"), self._program.health)

    def stop(self) -> None:
        """End it and whatever it has started."""
        if self._process is None:
            return
        assert self._process.stdin is not None
        self._process.stdin.close()  # the guard sees it
        try:
            self._process.wait(_END_SECONDS)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def _start(self) -> None:
        """Start it and wait until it is healthy, dead, or late."""
        port = _free_port()
        command = command_line(self._program, self.settings.model, port)
        self._url = f"http://127.0.0.1:{port}/v1"
        self.starts += 1
        self._answered = False
        self.log.parent.mkdir(parents=True, exist_ok=True)
        with open(self.log, "ab") as log:
            log.write(f"--- {time.strftime('%Y-%m-%d %H:%M:%S %z')}: {printable(' '.join(command))}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-I", "-S", str(_GUARD), *command],
                stdin=subprocess.PIPE, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | self._environment,
            )  # fmt: skip
        begin = time.monotonic()
        while self.alive and time.monotonic() - begin < self.settings.start_seconds:
            if self.is_healthy():
                self._answered = self._was_healthy = True
                self._say(f"server: healthy after {time.monotonic() - begin:.0f} s at {self._url} ({self.log})")
                return
            time.sleep(_LOOK_SECONDS)

    def _note_problem(self) -> None:
        """Before it is stopped: why it has to be."""
        if self._process is None:
            return
        code = self._process.poll()
        if code is not None:
            self._problem = f"ended with code {code}"
        elif self._answered:
            self._problem = f"runs but does not answer {self._program.health}"
        else:
            self._problem = f"was not ready within server.start_seconds={self.settings.start_seconds:g}"
        self._say(f"server: it {self._problem} ({self.log})")

    def _last_words(self) -> str:
        with open(self.log, "rb") as file:
            file.seek(max(0, self.log.stat().st_size - _TAIL_BYTES))
            lines = file.read().decode("utf-8", "replace").splitlines()
        words = without_credentials(" | ".join(line for line in lines[-_TAIL_LINES:] if line.strip()))
        return f"its last words: {one_line(words[-_TAIL_LETTERS:], _TAIL_LETTERS)} (all of them: {self.log})"


def _answers(url: str, path: str) -> bool:
    async def ask() -> bool:
        try:
            async with Transport(url, timeout=_HEALTH_SECONDS, largest=MIB) as transport:
                return (await transport.call("GET", path, b"", Secret(""))).http == 200
        except NoAnswer:
            return False

    return wait_for(ask())


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])
