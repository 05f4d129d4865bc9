"""The training job: optimizer, loop, checkpoints, metrics, signals."""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from .dpo import run_dpo
from .job import run_sft
from .several_runs import run_several

__all__ = ["run_dpo", "run_several", "run_sft"]
