"""TensorBoard's files in the run folder."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from torch.utils.tensorboard import SummaryWriter

from .logger import Logger


class TensorBoardLogger(Logger):
    """Writes output/tensorboard; what an earlier start wrote behind step `done` is hidden. Raises OSError."""

    name = "TensorBoard"

    def __init__(self, output: Path, done: int):
        self._done = done
        self._writer = SummaryWriter(output / "tensorboard", purge_step=done + 1)

    def settings(self, values: Mapping[str, Any]) -> None:
        lines = [f"| `{name}` | {str(value).replace('|', chr(92) + '|')} |" for name, value in values.items()]
        self._writer.add_text("run/settings", "\n".join(["| setting | value |", "|---|---|", *lines]), self._done + 1)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(name, value, step)

    def text(self, step: int, name: str, words: str) -> None:
        # Markdown shows a block that is indented as it stands.
        self._writer.add_text(name, "".join(f"    {line}\n" for line in words.splitlines()), step)

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._writer.add_image(name, pixels, step, dataformats="HWC")

    def close(self, failed: bool = False) -> None:
        self._writer.close()
