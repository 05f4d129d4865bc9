"""A file of lines that grows during a run, and outlives a disk that is full for a while."""

import sys
from pathlib import Path

from editcaption_mega.files import naming, parse_json, write_atomically


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


def drop_after(path: Path, step: int) -> tuple[int, int]:
    """Drop the lines of later steps from a file of objects that have a `step` -> how many others were damaged, and
    dropped too; and the last step that it had.

    The last line does not count: a run that was killed may have left half of it."""
    if not path.is_file():
        return 0, 0
    earlier, damaged, last = [], [], 0
    lines = path.read_bytes().splitlines(keepends=True)
    for number, line in enumerate(lines):
        try:
            numbers = parse_json(line)
            if not isinstance(numbers, dict) or type(numbers.get("step")) is not int:
                raise ValueError("no object with a step")
        except ValueError:
            damaged.append(number)
            continue
        last = max(last, numbers["step"])
        if numbers["step"] <= step:
            earlier.append(line.rstrip(b"\n") + b"\n")
    write_atomically(path, b"".join(earlier))
    return len([number for number in damaged if number < len(lines) - 1]), last
