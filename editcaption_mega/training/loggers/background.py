"""A logger that may wait for a network or a disk, in a thread of its own: training never waits for it."""

import queue
import threading
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from .logger import Logger

_MOST_WAITING = 10_000  # calls: what a logger has not taken by then, it never will
_PATIENCE = 60.0  # seconds that the end of a job waits for what is on its way


class BackgroundLogger(Logger):
    """Opens a logger and calls it in a thread. What it raises there is raised at the next call here.

    Raises TimeoutError where it does not keep up."""

    def __init__(
        self,
        name: str,
        open_logger: Callable[[], Logger],
        *,
        most_waiting: int = _MOST_WAITING,
        patience: float = _PATIENCE,
    ):
        self.name = name  # type: ignore[misc]
        self._patience = patience
        self._calls: queue.Queue[Callable[[Logger], None] | None] = queue.Queue(most_waiting)
        self._error: Exception | None = None
        # A daemon: where it hangs, the process can end.
        self._thread = threading.Thread(target=self._work, args=(open_logger,), name=f"logger {name}", daemon=True)
        self._thread.start()

    def settings(self, values: Mapping[str, Any]) -> None:
        self._later(lambda logger: logger.settings(values))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._later(lambda logger: logger.scalars(step, values))

    def text(self, step: int, name: str, words: str) -> None:
        self._later(lambda logger: logger.text(step, name, words))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._later(lambda logger: logger.image(step, name, pixels))

    def close(self, failed: bool = False) -> None:
        self._later(lambda logger: logger.close(failed))
        self._later(None)
        self._thread.join(self._patience)
        self._raise_error()
        if self._thread.is_alive():
            raise TimeoutError(f"it did not take its last numbers within {self._patience:g} s")

    def _later(self, call: Callable[[Logger], None] | None) -> None:
        self._raise_error()
        try:
            self._calls.put_nowait(call)
        except queue.Full:
            raise TimeoutError(f"it does not keep up: {self._calls.maxsize:,} entries wait for it") from None

    def _raise_error(self) -> None:
        if self._error is not None:
            raise self._error

    def _work(self, open_logger: Callable[[], Logger]) -> None:
        try:
            logger = open_logger()
            while (call := self._calls.get()) is not None:
                call(logger)
        except Exception as error:
            self._error = error
