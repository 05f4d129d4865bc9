"""Under which names other programs keep this run: a file of the run folder."""

import json
import threading
from pathlib import Path

from editcaption_mega.files import read_json_object, write_atomically
from editcaption_mega.settings import RUN_IDS


class RunIds:
    """The ids of a run folder's runs elsewhere, by logger. For threads, too.

    new: forget those of an earlier start, of which there is nothing to go on from. Raises OSError, and ValueError for a
    damaged file."""

    def __init__(self, output: Path, *, new: bool):
        self._path, self._lock = output / RUN_IDS, threading.Lock()
        if new:
            self._path.unlink(missing_ok=True)

    def get(self, logger: str) -> str | None:
        with self._lock:
            run_id = self._all().get(logger)
        return None if run_id is None else str(run_id)

    def keep(self, logger: str, run_id: str) -> None:
        with self._lock:
            write_atomically(self._path, json.dumps({**self._all(), logger: run_id}) + "\n")

    def _all(self) -> dict[str, object]:
        return read_json_object(self._path) if self._path.is_file() else {}
