"""Typed settings: one dataclass per concern, read from YAML with dotted overrides."""

from .job import (
    CheckpointSettings,
    DataSettings,
    JobSettings,
    ModelSettings,
    OptimizerSettings,
    ParallelSettings,
    TrainingSettings,
)
from .load import load_settings, save_settings

__all__ = [
    "CheckpointSettings",
    "DataSettings",
    "JobSettings",
    "ModelSettings",
    "OptimizerSettings",
    "ParallelSettings",
    "TrainingSettings",
    "load_settings",
    "save_settings",
]
