"""Stages of a demonstration: each a public command in a process of its own, done once, and killed on the way if asked.

A stage that is done has a mark, OUTPUT/stages/NAME.json; without one its output, where it appears whole or not at all,
says so too: whoever drives the stages may be killed as well."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from editcaption_mega.files import read_json_object, write_atomically

ROOT = Path(__file__).resolve().parents[2]
_SHORTER = 0.6  # the moment of the next kill, where the stage was over before this one
_MOST_KILLS = 8  # tries of one stage
_EARLIEST = 0.25  # share of `usual`
_LOOK_SECONDS = 0.02


@dataclass(frozen=True)
class Stage:
    """name: also of its mark. what: for the report. command: words after Python's. whole: appears when the stage is
    done, and not before. writes: what to take away to do all of it again; without any, doing it again does what is
    missing. A kill comes within `usual` seconds from the start, or from when there is something in `begun`."""

    name: str
    what: str
    command: Sequence[object]
    usual: float = 2.0
    whole: Path | None = None
    writes: tuple[Path, ...] = ()
    begun: Path | None = None


@dataclass
class StageRunner:
    """kills: whether each stage is killed once. environment: variables that stages have beside this process's."""

    folder: Path
    kills: bool
    say: Callable[[str], object]
    environment: dict[str, str] = field(default_factory=dict)
    records: list[dict[str, Any]] = field(default_factory=list)  # of the stages so far, for the report

    def is_done(self, stage: Stage) -> bool:
        return self._mark(stage).is_file() or (stage.whole is not None and stage.whole.exists())

    def run(self, stage: Stage) -> None:
        """Do what is missing of it. Raises ValueError when its command fails; what that is, it has said itself."""
        if not self._mark(stage).is_file():
            record: dict[str, Any] = {"name": stage.name, "what": stage.what, "seconds": None, "kills": []}
            if not self.is_done(stage):
                self.say(f"{stage.name}: {stage.what}")
                record["kills"] = self._killed(stage) if self.kills else []
                began = time.monotonic()
                if not self.is_done(stage):
                    self._finish(stage)
                record["seconds"] = round(time.monotonic() - began, 1)
            self._mark(stage).parent.mkdir(parents=True, exist_ok=True)
            write_atomically(self._mark(stage), json.dumps(record) + "\n")
        self.records.append(read_json_object(self._mark(stage)))

    def _mark(self, stage: Stage) -> Path:
        return self.folder / "stages" / f"{stage.name}.json"

    def _finish(self, stage: Stage) -> None:
        with self._started(stage) as process:
            code = process.wait()
        if code:
            words = " ".join(map(str, stage.command[:3]))
            raise ValueError(f"{stage.name} ({words} ..) failed with exit status {code}; see above")

    def _killed(self, stage: Stage) -> list[float]:
        """Start it and kill it with -9 at a random moment before its end -> seconds until then, of each try.

        A stage that is over before its moment is taken away and begins again with an earlier one."""
        moment = stage.usual * random.uniform(_EARLIEST, 1)
        for _ in range(_MOST_KILLS):
            began = time.monotonic()
            with self._started(stage) as process:
                while process.poll() is None and not _has_something(stage.begun):
                    time.sleep(_LOOK_SECONDS)
                try:
                    code = process.wait(moment)
                except subprocess.TimeoutExpired:
                    os.killpg(process.pid, signal.SIGKILL)
                    process.wait()
                    after = round(time.monotonic() - began, 2)
                    self.say(f"{stage.name}: killed with -9 after {after:.2f} s, and begun again")
                    return [after]
            if code:
                raise ValueError(f"{stage.name} failed with exit status {code} before its kill; see above")
            for path in stage.writes:
                shutil.rmtree(path) if path.is_dir() else path.unlink(missing_ok=True)
            moment *= _SHORTER
        return []

    @contextmanager
    def _started(self, stage: Stage) -> Iterator[subprocess.Popen]:
        """The running command, a process group of its own where it is to be killed; it ends with the block."""
        environment = os.environ | self.environment
        command = [sys.executable, *map(str, stage.command)]
        process = subprocess.Popen(command, cwd=ROOT, env=environment, start_new_session=self.kills)
        try:
            yield process
        except BaseException:
            process.send_signal(signal.SIGTERM)
            process.wait()
            raise


def _has_something(path: Path | None) -> bool:
    """In a file or a folder; where nothing is named it has."""
    if path is None:
        return True
    return any(path.iterdir()) if path.is_dir() else path.is_file() and path.stat().st_size > 0
