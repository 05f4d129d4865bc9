"""The settings of a training job whose kind its own file tells."""

from pathlib import Path

import yaml

from .dpo import DPOSettings
from .job import JobSettings
from .load import load_settings
from .shipped import find_config

_OF_PREFERENCES = ("preference", "reference")


def load_job(path: str | Path, overrides: list[str] | None = None) -> JobSettings:
    """DPO's settings where the file or an override has one of their sections, else SFT's. Errors as `load_settings`."""
    try:
        document = yaml.safe_load(find_config(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        document = None  # `load_settings` says what is wrong
    sections = set(document) if isinstance(document, dict) else set()
    sections |= {override.partition(".")[0] for override in overrides or []}
    kind = DPOSettings if sections & set(_OF_PREFERENCES) else JobSettings
    return load_settings(path, overrides, kind)
