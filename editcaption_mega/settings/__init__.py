"""Typed settings: one dataclass per concern, read from YAML with dotted overrides."""

from .dpo import DPOSettings, PreferenceSettings, ReferenceSettings
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
    "DPOSettings",
    "DataSettings",
    "JobSettings",
    "ModelSettings",
    "OptimizerSettings",
    "ParallelSettings",
    "PreferenceSettings",
    "ReferenceSettings",
    "TrainingSettings",
    "load_settings",
    "save_settings",
]
