"""What a logger is, and those of a run together, none of which can end it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from editcaption_mega.words import one_line, without_secrets


class Logger(ABC):
    """Where numbers, texts and images of a run go beside metrics.jsonl. On rank 0 alone.

    Steps come in order and count from 1. Each method may raise whatever its library raises: `Loggers` says it."""

    name: ClassVar[str]  # in sentences

    @abstractmethod
    def settings(self, values: Mapping[str, Any]) -> None:
        """The job's settings, by their dotted names."""

    @abstractmethod
    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        """Finite numbers of a step by their names, which are GROUP/NAME."""

    @abstractmethod
    def text(self, step: int, name: str, words: str) -> None:
        """Lines to be shown as they stand, under a name GROUP/NAME."""

    @abstractmethod
    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        """[height, width, 3] uint8, under a name GROUP/NAME."""

    @abstractmethod
    def close(self, failed: bool = False) -> None:
        """The run has ended, or failed."""


class Loggers:
    """The loggers of a run. What one of them raises is said once, in a WARNING line, and ends that logger alone.

    say: takes lines for the log."""

    def __init__(self, loggers: Sequence[Logger], say: Callable[[str], None]):
        self._loggers, self._say = list(loggers), say

    def __len__(self) -> int:
        return len(self._loggers)

    def settings(self, values: Mapping[str, Any]) -> None:
        self._each("before the first step", lambda logger: logger.settings(values))

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._each(f"before step {step}", lambda logger: logger.scalars(step, values))

    def text(self, step: int, name: str, words: str) -> None:
        self._each(f"at step {step}", lambda logger: logger.text(step, name, words))

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._each(f"at step {step}", lambda logger: logger.image(step, name, pixels))

    def close(self, failed: bool = False) -> None:
        self._each("at the last step", lambda logger: logger.close(failed))
        self._loggers = []

    def _each(self, where: str, work: Callable[[Logger], None]) -> None:
        for logger in tuple(self._loggers):
            try:
                work(logger)
            except Exception as error:  # each library has classes of its own, and none is worth a run
                self._loggers.remove(logger)
                problem = one_line(without_secrets(str(error) or type(error).__name__))
                self._say(f"WARNING: {logger.name} ends {where} ({problem}); metrics.jsonl has every step")
