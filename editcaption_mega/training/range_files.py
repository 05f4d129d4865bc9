"""What a pass over all samples has computed so far: a file of lines for each range of them, and in the end one file.

    OUTPUT.partial/head.json                          what the numbers depend on, and how many samples a range has
    OUTPUT.partial/000000000064-000000000128.jsonl    the lines of samples 64 .. 127, there when all are on the disk
    OUTPUT.partial/lock.json                          while a pass is at work

Whoever computes a range writes it, so nothing is gathered; a killed pass loses the ranges that it was computing.
"""

import json
import os
import re
import shutil
from collections.abc import Callable, Iterable
from contextlib import suppress
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega import platform, signals
from editcaption_mega.files import PARTIAL, read_json_object, rename_whole, write_atomically
from editcaption_mega.lock import FolderLock

HEAD = "head.json"
_NAME = re.compile(r"(\d{12,})-(\d{12,})\.jsonl")
_WHOLE = "whole"  # the file of all lines while it is put together
_COPIED_AT_ONCE = 64 << 20  # bytes

IsLine = Callable[[str, int], bool]  # whether a line is that of sample number i


class RangeFiles:
    """The ranges of `samples` samples, `size` in each (the last has what is left), of the file `output`."""

    def __init__(self, output: Path, samples: int, size: int):
        self.output, self.folder = output, output.with_name(output.name + PARTIAL)
        self.samples, self.size = samples, size
        self._lock = FolderLock(self.folder, "log-probs", on_lost=signals.ask)

    @classmethod
    def open(cls, output: Path, head: dict[str, Any], samples: int, size: int, is_line: IsLine) -> "RangeFiles":
        """Those of this pass, new or begun by an earlier start, whose size of ranges stays; `close` leaves them to
        others. Their size is 0 where this process was asked to stop while it waited for another one. Collective.

        Raises ValueError that names what differs when they are of another pass, or who is at work on them."""
        files = cls(output, samples, size)
        folder = files.folder

        def opened() -> int:
            if folder.is_file():
                _divide(folder, head, samples, size, is_line)
            if not files._lock.acquire(platform.print_rank_0, give_up=signals.asked):
                return 0
            if output.exists():
                raise ValueError(f"{output} was written by another process just now: nothing was computed")
            if not (folder / HEAD).is_file():
                folder.mkdir(parents=True, exist_ok=True)
                write_atomically(folder / HEAD, json.dumps(head | {"range": size}) + "\n")
            return _recorded_size(folder, head)

        try:
            files.size = platform.from_rank_zero(opened)
        except BaseException:
            files.close()
            raise
        return files

    def close(self) -> None:
        self._lock.release()
        with suppress(OSError):  # it has ranges
            self.folder.rmdir()

    def ranges(self) -> list[range]:
        return [self._at(start) for start in range(0, self.samples, self.size)]

    def done(self, is_line: IsLine) -> set[range]:
        """The ranges that are there, whole. Collective: the ranks share the reading, and remove what is damaged."""
        present = platform.from_rank_zero(self._present)
        with platform.together():
            mine = [samples for samples in platform.share(present) if self._is_whole(samples, is_line)]
        return {samples for part in platform.gather(mine) for samples in part}

    def write(self, samples: range, lines: Iterable[dict[str, Any]]) -> None:
        """All lines of a range, on the disk when this returns. Raises OSError."""
        write_atomically(self._path(samples), "".join(json.dumps(line) + "\n" for line in lines))

    def publish(self, first_line: str) -> None:
        """Put all ranges, behind a first line, together as `output`, and remove them. Collective: each rank copies its
        share to its place."""
        ranges = self.ranges()
        with platform.together():
            sizes = [self._path(samples).stat().st_size for samples in platform.share(ranges)]
        head = first_line.encode()
        *offsets, end = np.cumsum([len(head), *platform.gather_shares(np.array(sizes, np.int64))]).tolist()
        whole = self.folder / _WHOLE
        with platform.together():
            if platform.is_rank_zero():
                with open(whole, "wb") as file:
                    file.write(head)
                    file.truncate(end)
        with platform.together(), open(whole, "r+b") as file:
            for samples, offset in platform.share(list(zip(ranges, offsets, strict=True))):
                file.seek(offset)
                with open(self._path(samples), "rb") as part:
                    shutil.copyfileobj(part, file, _COPIED_AT_ONCE)
            file.flush()
            os.fsync(file.fileno())
        with platform.together():
            if platform.is_rank_zero():
                self._lock.check()
                rename_whole(whole, self.output)
                shutil.rmtree(self.folder)

    def _at(self, start: int) -> range:
        return range(start, min(start + self.size, self.samples))

    def _path(self, samples: range) -> Path:
        return self.folder / f"{samples.start:012d}-{samples.stop:012d}.jsonl"

    def _present(self) -> list[range]:
        matches = filter(None, map(_NAME.fullmatch, sorted(os.listdir(self.folder))))
        named = (range(int(match[1]), int(match[2])) for match in matches)
        return [samples for samples in named if samples.start % self.size == 0 and samples == self._at(samples.start)]

    def _is_whole(self, samples: range, is_line: IsLine) -> bool:
        """A range file appears when it is whole; a disk may damage it all the same."""
        path = self._path(samples)
        with open(path, encoding="utf-8", errors="replace") as file:
            lines = file.read().splitlines(keepends=True)
        if len(lines) == len(samples) and all(map(is_line, lines, samples)):
            return True
        path.unlink()
        return False


def _recorded_size(folder: Path, head: dict[str, Any]) -> int:
    """How many samples a range of the folder has. Raises ValueError when its head is that of another pass."""
    recorded = read_json_object(folder / HEAD)
    size = recorded.pop("range", None)
    if recorded != head or not isinstance(size, int) or size < 1:
        was, now = _flat(recorded), _flat(head)
        names = [name for name in sorted({*was, *now}) if was.get(name) != now.get(name)] or ["range"]
        listed = ", ".join(f"{name} ({was.get(name)} there, {now.get(name)} here)" for name in names)
        raise ValueError(
            f"{folder} holds the first part of log-probs of something else: {listed} differ. Remove it to compute them "
            "anew, or give the settings that it was begun with"
        )
    return size


def _flat(head: dict[str, Any]) -> dict[str, Any]:
    parts = head.get("fingerprint")
    return {**(parts if isinstance(parts, dict) else {}), **{k: v for k, v in head.items() if k != "fingerprint"}}


def _divide(path: Path, head: dict[str, Any], samples: int, size: int, is_line: IsLine) -> None:
    """Make ranges of what an earlier version wrote: one file of the first line and those behind it, cut anywhere."""
    folder = path.with_name(f"{path.name.removesuffix(PARTIAL)}.ranges{PARTIAL}")
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    files = RangeFiles(path, samples, size)
    files.folder = folder
    with open(path, encoding="utf-8", errors="replace") as file:
        same = file.readline() == json.dumps({"fingerprint": head["fingerprint"]}) + "\n"
        for of_range in files.ranges() if same else []:
            lines = [file.readline() for _ in of_range]
            if not all(map(is_line, lines, of_range)):
                break
            write_atomically(files._path(of_range), "".join(lines))
    write_atomically(folder / HEAD, json.dumps(head | {"range": size}) + "\n")
    path.unlink()
    os.rename(folder, path)
