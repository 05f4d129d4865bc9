"""The settings of a training job whose kind its own file tells."""

from pathlib import Path

import yaml

from .checks import SettingsError
from .dpo import DPOSettings, PreferenceSettings, ReferenceSettings
from .job import JobSettings
from .load import OF_PREFERENCES, load_settings
from .shipped import find_config, shipped_folder


def load_job(path: str | Path, overrides: list[str] | None = None) -> JobSettings:
    """DPO's settings where the file or an override has one of their sections, else SFT's. Errors as `load_settings`."""
    kind = DPOSettings if _of_preferences(path, overrides) else JobSettings
    return load_settings(path, overrides, kind)


def refuse_sft(settings: DPOSettings, path: str | Path, overrides: list[str] | None = None) -> None:
    """Raises SettingsError where the configuration behind the settings of a DPO job is a shipped one of SFT: nothing in
    it, and no override, is of preferences. All that it lacks has defaults, but its learning rate and data are another
    job's. A file of one's own may leave everything of preferences to the defaults."""
    if (settings.preference, settings.reference) != (PreferenceSettings(), ReferenceSettings()):
        return
    is_shipped = find_config(path).resolve().parent == shipped_folder().resolve()
    if is_shipped and not _of_preferences(path, overrides):
        raise SettingsError(
            f"{path} has neither a section preference: nor reference:, so it is an SFT configuration: train-sft takes "
            "it; name a DPO one such as dpo_qwen3_vl_2b, or, where it has preference pairs and the learning rate that "
            "is wanted, say preference.loss=sigmoid behind it"
        )


def _of_preferences(path: str | Path, overrides: list[str] | None) -> bool:
    """Whether the file or an override has a section that DPO alone has. A file that cannot be read has none."""
    try:
        document = yaml.safe_load(find_config(path).read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError):
        document = None  # `load_settings` says what is wrong
    sections = {str(key).partition(".")[0] for key in document} if isinstance(document, dict) else set()
    sections |= {override.partition(".")[0].partition("=")[0] for override in overrides or []}
    return bool(sections & set(OF_PREFERENCES))
