"""The training job: optimizer, loop, checkpoints, metrics, signals."""

from editcaption_mega import platform  # noqa: F401  isort: skip
from .job import run_sft

__all__ = ["run_sft"]
