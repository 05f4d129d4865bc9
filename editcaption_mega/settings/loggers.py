"""Where a run's numbers go beside metrics.jsonl: which loggers, and what each must know."""

import importlib.util
from dataclasses import dataclass, fields

from .checks import SettingsError, choice

RUN_IDS = "loggers.json"  # of the run folder: under which names other programs keep the run
LOGGERS = ("tensorboard", "wandb", "mlflow")
# Those that are no dependency -> what pip installs; pyproject.toml has an extra of each name with the same range.
OPTIONAL_LOGGERS = {"wandb": "wandb>=0.31,<1", "mlflow": "mlflow>=3.1,<4"}


@dataclass
class WandbSettings:
    """Weights & Biases. Its key comes from `wandb login` or WANDB_API_KEY and stands in no setting."""

    project: str = "editcaption-mega"  # where the run is listed
    entity: str = ""  # user or team; "": the account's own
    name: str = ""  # of the run; "": that of the run folder
    mode: str = "online"  # online | offline: into the run folder, for `wandb sync` later

    def validate(self) -> None:
        choice("wandb.mode", self.mode, ("online", "offline"))
        if not self.project:
            raise SettingsError("wandb.project is empty: name the project")


@dataclass
class MlflowSettings:
    """MLflow. What its server asks for comes from MLFLOW_TRACKING_USERNAME and the like and stands in no setting."""

    # Address of a server, or sqlite:///FILE; "": MLFLOW_TRACKING_URI, else mlflow/mlflow.db of the run folder
    tracking_uri: str = ""
    experiment: str = "editcaption-mega"  # where the run is listed
    name: str = ""  # of the run; "": that of the run folder

    def validate(self) -> None:
        if not self.experiment:
            raise SettingsError("mlflow.experiment is empty: name the experiment")
        if "@" in self.tracking_uri:
            raise SettingsError(
                "mlflow.tracking_uri holds a user or a password, and config.yaml would keep it: give the address "
                "without it, and set MLFLOW_TRACKING_USERNAME and MLFLOW_TRACKING_PASSWORD"
            )


def check_loggers(chosen: list[str], wandb: WandbSettings, mlflow: MlflowSettings) -> None:
    """Raise SettingsError for a logger that there is not, and for settings of one that is not chosen."""
    for name in chosen:
        choice("training.loggers", name, LOGGERS)
    if len(set(chosen)) < len(chosen):
        raise SettingsError(f"training.loggers={chosen} names one twice: leave it out")
    for section, settings in (("wandb", wandb), ("mlflow", mlflow)):
        settings.validate()
        for field in fields(settings):
            value = getattr(settings, field.name)
            if section not in chosen and value != field.default:
                raise SettingsError(
                    f"{section}.{field.name}={value} has a meaning with {section} among training.loggers only: set "
                    f"training.loggers=[{','.join([*chosen, section])}], or leave it out"
                )


def check_installed(chosen: list[str]) -> None:
    """Raise SettingsError for a chosen logger whose package is not there. Nothing is imported."""
    for name in chosen:
        if name in OPTIONAL_LOGGERS and importlib.util.find_spec(name) is None:
            raise SettingsError(
                f"training.loggers has {name}, which is not installed: pip install '{OPTIONAL_LOGGERS[name]}', or "
                "leave it out"
            )
