"""Several runs of one job: a file of names, each with the settings that replace some of the job's for its run."""

import dataclasses
import re
from collections.abc import Mapping
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
    given = _read(path, kind)
    runs: dict[str, Kind] = {}
    for name, values in given.items():
        words = overrides_of(values)
        try:
            if "training.output" in _names(values):
                raise SettingsError("training.output is the job's, in which the run's name is its folder: leave it out")
            settings = load_settings(config, [*overrides, *words], kind)
            if not settings.model.adapters.rank:
                raise SettingsError("it has no adapters, and weights that are trained cannot be shared: set a rank")
            settings.training.output = str(_job_folder(settings) / name)
            runs[name] = settings
            if earlier := earlier_run(runs, name):
                _check_start(settings, earlier, runs[earlier])
        except SettingsError as error:
            raise SettingsError(f"{path}, run {name}: {error}") from error
    first, *others = runs
    for name in others:
        _check_same(f"{path}, run {name}", runs[name], first, runs[first])
    return runs


def earlier_run(runs: Mapping[str, JobSettings], name: str) -> str:
    """The run before this one whose adapters it starts from; "": none of them."""
    start = runs[name].model.adapters.start
    before = list(runs)[: list(runs).index(name)] if start else []
    return next((run for run in before if Path(runs[run].training.output).absolute() == Path(start).absolute()), "")


def _check_start(settings: JobSettings, earlier: str, of_earlier: JobSettings) -> None:
    """Raises SettingsError for adapters that will not be those of the run that they are to start from."""
    free = {"dropout": 0.0, "start": ""}  # of each run's own
    own, other = (dataclasses.asdict(each.model.adapters) | free for each in (settings, of_earlier))
    if different := [name for name in own if own[name] != other[name]]:
        was = ", ".join(f"model.adapters.{name}={other[name]}" for name in different)
        now = ", ".join(f"{name}={own[name]}" for name in different)
        raise SettingsError(
            f"model.adapters.start={settings.model.adapters.start} is run {earlier}, which has {was}, and this one has "
            f"{now}: set these alike"
        )


def _read(path: str | Path, kind: type[JobSettings]) -> dict[str, dict[str, Any]]:
    if not str(path):
        raise SettingsError(f"the file of runs has no name: name a YAML file of runs, {_EXAMPLE}")
    document = OmegaConf.to_container(read_yaml(path, Path(path), f"name a YAML file of runs, {_EXAMPLE}"))
    if not isinstance(document, dict) or not document:
        raise SettingsError(f"{path} holds no runs: expected a name with settings for each, {_EXAMPLE}")
    if document.keys() <= {section.name for section in dataclasses.fields(kind)}:
        raise SettingsError(
            f"{path} holds the settings of a job ({', '.join(map(str, document))}), and no runs: expected a name with "
            f"settings for each, {_EXAMPLE}"
        )
    folders: dict[str, str] = {}
    for name, values in document.items():
        if not isinstance(name, str) or not _NAME.fullmatch(name):
            raise SettingsError(
                f"{path}: {name!r} cannot be the name of a run, which is a folder: letters, digits, '.', '_' and '-' "
                "(in quotes where YAML would read a number)"
            )
        if values is not None and not (isinstance(values, dict) and all(isinstance(key, str) for key in values)):
            raise SettingsError(f"{path}: run {name} is {values!r}, expected settings and their values, {_EXAMPLE}")
        if (other := folders.setdefault(name.lower(), name)) != name:
            raise SettingsError(
                f"{path}: runs {other} and {name} have names that are one folder where capitals make no difference: "
                "name one of them otherwise"
            )
        _names(values or {}, f"{path}, run {name}: ")
    return {str(name): values or {} for name, values in document.items()}


def _names(values: dict[str, Any], where: str = "") -> list[str]:
    """Dotted names of all settings, also of those in sections. Raises SettingsError for one that stands twice."""
    names: list[str] = []

    def collect(part: dict[Any, Any], prefix: str) -> None:
        for key, value in part.items():
            if isinstance(value, dict) and value:
                collect(value, f"{prefix}{key}.")
            elif (name := f"{prefix}{key}") in names:
                raise SettingsError(f"{where}{name} stands there twice, alone and in its section: keep one")
            else:
                names.append(name)

    collect(values, "")
    return names


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
