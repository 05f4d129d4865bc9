"""A file of lines that grows during a run, and outlives a disk that is full for a while."""

import sys
from pathlib import Path

from editcaption_mega.files import naming


class LineFile:
    """Lines appended to a file at once; what a full disk refuses is kept, and tried again at the next line.

    A line on stderr says when that begins. Opening raises OSError, and so does `close` when lines are left."""

    def __init__(self, path: Path):
        self.path = path
        self._file = open(path, "ab", buffering=0)  # noqa: SIM115 (open for the whole run)
        self._waiting = b""
        self._failing = False

    def write(self, line: str) -> None:
        self._waiting += line.encode() + b"\n"
        try:
            self._drain()
        except OSError as error:
            if not self._failing:
                print(
                    f"WARNING: {self.path} cannot be written: {error.strerror}. Its lines are kept and tried again "
                    "at each step: make room",
                    file=sys.stderr,
                    flush=True,
                )
            self._failing = True

    def close(self) -> None:
        with naming(self.path), self._file:
            self._drain()

    def _drain(self) -> None:
        while self._waiting:
            written = self._file.write(self._waiting)
            self._waiting = self._waiting[written:]
        self._failing = False
