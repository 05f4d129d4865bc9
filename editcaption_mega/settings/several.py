"""Several runs of one job: a file of names, each with the settings that replace some of the job's for its run."""

import dataclasses
import re
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from .checks import SettingsError
from .job import JobSettings
from .load import load_settings, overrides_of, read_yaml

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]*")
_EXAMPLE = "such as `small: {model.adapters.rank: 8}`"


def load_runs[Kind: JobSettings](
    path: str | Path, config: str | Path | None, overrides: list[str], kind: type[Kind]
) -> dict[str, Kind]:
    """The settings of each run by its name. Its folder is that name in the job's `training.output`.

    Runs are of adapters on the same weights, held by the same ranks: raises SettingsError where a run would need a
    model or a layout of its own, and as `load_settings` does, with the run's name."""
    given = _read(path)
    runs: dict[str, Kind] = {}
    for name, values in given.items():
        words = overrides_of(values)
        try:
            if any(word.startswith(("training.output=", "training={")) and "output" in word for word in words):
                raise SettingsError("training.output is the job's, in which the run's name is its folder: leave it out")
            settings = load_settings(config, [*overrides, *words], kind)
            if not settings.model.adapters.rank:
                raise SettingsError("it has no adapters, and weights that are trained cannot be shared: set a rank")
            settings.training.output = str(_job_folder(settings) / name)
        except SettingsError as error:
            raise SettingsError(f"{path}, run {name}: {error}") from error
        runs[name] = settings
    first, *others = runs
    for name in others:
        _check_same(f"{path}, run {name}", runs[name], first, runs[first])
    return runs


def _read(path: str | Path) -> dict[str, dict[str, Any]]:
    document = OmegaConf.to_container(read_yaml(path, Path(path), f"name a YAML file of runs, {_EXAMPLE}"))
    if not isinstance(document, dict) or not document:
        raise SettingsError(f"{path} holds no runs: expected a name with settings for each, {_EXAMPLE}")
    for name, values in document.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingsError(
                f"{path}: {name!r} cannot be the name of a run, which is a folder: letters, digits, '.', '_' and '-' "
                "(in quotes where YAML would read a number)"
            )
        if values is not None and not (isinstance(values, dict) and all(isinstance(key, str) for key in values)):
            raise SettingsError(f"{path}: run {name} is {values!r}, expected settings and their values, {_EXAMPLE}")
    return {str(name): values or {} for name, values in document.items()}


def _job_folder(settings: JobSettings) -> Path:
    folder = Path(settings.training.output)
    if (folder / "config.yaml").exists():
        raise SettingsError(f"training.output={folder} is the folder of one run: name another one for several")
    return folder


def _check_same(where: str, settings: JobSettings, first: str, of_first: JobSettings) -> None:
    """Raises SettingsError for the first setting that a model which is there already cannot follow."""
    for name, value in _fixed(settings).items():
        other = _fixed(of_first)[name]
        if value != other:
            raise SettingsError(
                f"{where}: {name}={value!r}, but run {first} has {other!r}, and the runs share a model that is built "
                "and loaded once: make it the same, or start this one as a job of its own"
            )


def _fixed(settings: JobSettings) -> dict[str, Any]:
    """What decides how a model is built, and how its ranks are joined."""
    values: dict[str, Any] = {}
    for section in ("model", "parallel"):
        part = getattr(settings, section)
        values |= {f"{section}.{each.name}": getattr(part, each.name) for each in dataclasses.fields(part)}
    del values["model.adapters"]
    values["training.precision"] = settings.training.precision
    values["training.deterministic"] = settings.training.deterministic
    values["watchdog.collective_minutes"] = settings.watchdog.collective_minutes
    return values
