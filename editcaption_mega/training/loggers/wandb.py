"""Weights & Biases: the optional package `wandb`, imported where it is chosen alone."""

import html
import secrets
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from editcaption_mega.settings import SettingsError, WandbSettings

from .logger import Logger
from .run_ids import RunIds


class WandbLogger(Logger):
    """One run of Weights & Biases for all starts of a run folder, under an id that the folder keeps.

    Its history cannot be taken back: steps up to `known`, which an earlier start logged, stay as they are there."""

    name = "Weights & Biases"

    def __init__(self, settings: WandbSettings, output: Path, ids: RunIds, known: int):
        import wandb

        self._wandb = wandb
        run_id = ids.get("wandb") or secrets.token_hex(8)
        ids.keep("wandb", run_id)  # before the run is begun: a job that is killed in between goes on with it
        self._run = wandb.init(
            project=settings.project, entity=settings.entity or None, name=settings.name or output.absolute().name,
            id=run_id, resume="allow", mode=settings.mode, dir=output,
            # log.txt is the text of a run; wandb's own words would go between the progress lines.
            settings=wandb.Settings(console="off", silent=True),
        )  # fmt: skip
        self._next = max(known, self._run.starting_step - 1) + 1  # the first step that is new there

    def settings(self, values: Mapping[str, Any]) -> None:
        self._run.config.update(dict(values), allow_val_change=True)

    def scalars(self, step: int, values: Mapping[str, float]) -> None:
        self._log(step, values)

    def text(self, step: int, name: str, words: str) -> None:
        self._log(step, {name: self._wandb.Html(f"<pre>{html.escape(words)}</pre>", inject=False)})

    def image(self, step: int, name: str, pixels: np.ndarray) -> None:
        self._log(step, {name: self._wandb.Image(pixels)})

    def close(self, failed: bool = False) -> None:
        self._run.finish(exit_code=int(failed))

    def _log(self, step: int, values: Mapping[str, Any]) -> None:
        if step >= self._next:
            self._run.log(dict(values), step=step)


def check_wandb(settings: WandbSettings) -> None:
    """Raise SettingsError where an online run has no key, before anything is asked of the server."""
    if settings.mode == "offline":
        return
    import wandb

    try:
        has_key = wandb.login(prompt=False)
    except Exception:  # a server that is away or refuses: beginning the run says so, and training goes on
        return
    if not has_key:
        raise SettingsError(
            "training.loggers has wandb, which knows no key here: run `wandb login`, set WANDB_API_KEY, or choose "
            "wandb.mode=offline"
        )
