"""Typed settings: one dataclass per concern, read from YAML with dotted overrides."""

from .adapters import AdapterSettings
from .checkpoints import CheckpointSettings
from .checks import SettingsError, before_work, check_model_folder
from .curation import CaptionSettings, ScoreSettings, ServerSettings
from .dpo import DPOSettings, PreferenceSettings, ReferenceSettings
from .endurance import BadStepSettings, WatchdogSettings
from .evaluation import (
    BenchmarkSettings,
    CandidateSettings,
    EditorSettings,
    EndpointSettings,
    EvaluationSettings,
    GenerationSettings,
    JudgeSettings,
    ReportSettings,
)
from .hub_names import hub_hint
from .job import BACKENDS, DataSettings, JobSettings, ModelSettings, TrainingSettings
from .job_file import load_job, refuse_sft
from .job_optimizer import OptimizerSettings
from .job_parallel import ParallelSettings
from .load import load_settings, overrides_of, save_settings
from .loggers import LOGGERS, OPTIONAL_LOGGERS, RUN_IDS, MlflowSettings, WandbSettings, check_installed
from .paths import check_paths
from .pictures import PixelLimits
from .sampled_texts import SampleSettings
from .several import earlier_run, load_runs
from .shipped import find_config, shipped_folder
from .small_model import SmallModel
from .training_evaluation import TrainingEvaluationSettings

__all__ = [
    "AdapterSettings",
    "BACKENDS",
    "BadStepSettings",
    "BenchmarkSettings",
    "CandidateSettings",
    "CaptionSettings",
    "CheckpointSettings",
    "DPOSettings",
    "DataSettings",
    "EditorSettings",
    "EndpointSettings",
    "EvaluationSettings",
    "GenerationSettings",
    "JobSettings",
    "JudgeSettings",
    "LOGGERS",
    "MlflowSettings",
    "ModelSettings",
    "OPTIONAL_LOGGERS",
    "OptimizerSettings",
    "ParallelSettings",
    "PixelLimits",
    "PreferenceSettings",
    "RUN_IDS",
    "ReferenceSettings",
    "ReportSettings",
    "SampleSettings",
    "ScoreSettings",
    "ServerSettings",
    "SettingsError",
    "SmallModel",
    "TrainingEvaluationSettings",
    "TrainingSettings",
    "WandbSettings",
    "WatchdogSettings",
    "before_work",
    "check_installed",
    "check_model_folder",
    "check_paths",
    "find_config",
    "hub_hint",
    "load_job",
    "earlier_run",
    "load_runs",
    "load_settings",
    "overrides_of",
    "refuse_sft",
    "save_settings",
    "shipped_folder",
]
