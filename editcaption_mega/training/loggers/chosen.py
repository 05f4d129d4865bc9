"""The loggers that a job's settings choose."""

from collections.abc import Callable
from pathlib import Path

from editcaption_mega.settings import JobSettings, check_installed

from .background import BackgroundLogger
from .logger import Logger, Loggers
from .run_ids import RunIds


def check_chosen(settings: JobSettings) -> None:
    """Raise SettingsError, before any work, for a logger that can't begin here: not installed, or without its key."""
    check_installed(settings.training.loggers)
    if "wandb" in settings.training.loggers:
        from .wandb import check_wandb

        check_wandb(settings.wandb)


def open_chosen(settings: JobSettings, output: Path, done: int, known: int, say: Callable[[str], None]) -> Loggers:
    """The loggers of a run folder whose run goes on after step `done`, and in which an earlier start had come to step
    `known`. Raises OSError where the folder cannot be written; whatever else keeps one from beginning ends it alone."""
    ids = RunIds(output, new=not done)
    known = known if done else 0

    def wandb() -> Logger:
        from .wandb import WandbLogger

        return WandbLogger(settings.wandb, output, ids, known)

    def mlflow() -> Logger:
        from .mlflow import MlflowLogger

        return MlflowLogger(settings.mlflow, output, ids, known)

    loggers: list[Logger] = []
    if "tensorboard" in settings.training.loggers:
        from .tensorboard import TensorBoardLogger

        loggers.append(TensorBoardLogger(output, done))
    if "wandb" in settings.training.loggers:
        loggers.append(BackgroundLogger("Weights & Biases", wandb))
    if "mlflow" in settings.training.loggers:
        loggers.append(BackgroundLogger("MLflow", mlflow))
    return Loggers(loggers, say)
