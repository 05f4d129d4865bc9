"""YAML and dotted overrides -> settings. Unknown keys and wrong types are errors that name the key."""

import dataclasses
import difflib
from pathlib import Path
from typing import Protocol, get_args, get_origin

from omegaconf import DictConfig, OmegaConf
from omegaconf.errors import OmegaConfBaseException

from .job import JobSettings


class Settings(Protocol):
    """A dataclass of settings that can tell whether they fit together."""

    def validate(self) -> None: ...


def load_settings[Kind: Settings](
    path: str | Path | None, overrides: list[str] | None = None, kind: type[Kind] = JobSettings
) -> Kind:
    """Read `path` (None: defaults), apply overrides such as `optimizer.learning_rate=1e-5`, validate. -> a `kind`.

    Raises ValueError with one sentence for a missing file, bad YAML, an unknown key or a wrong value."""
    merged = OmegaConf.structured(kind)
    if path is not None:
        try:
            document = OmegaConf.load(path)
        except FileNotFoundError:
            raise ValueError(f"{path} does not exist: name a YAML file such as configs/sft_demo.yaml") from None
        except Exception as error:  # yaml errors come from several modules
            raise ValueError(f"{path} is not valid YAML: {str(error).splitlines()[0]}") from None
        if not isinstance(document, DictConfig):
            raise ValueError(f"{path} holds no settings: expected sections such as model:, data:, training:")
        merged = _merge(kind, merged, document, str(path))
    for override in overrides or []:
        key, equals, value = override.partition("=")
        if not equals or not key:
            raise ValueError(f"override {override!r} is not of the form key=value, such as training.steps=100")
        merged = _merge(kind, merged, OmegaConf.from_dotlist([override]), f"override {override!r}")
    settings = _construct(kind, OmegaConf.to_container(merged, resolve=True))
    settings.validate()
    return settings


def save_settings(settings: Settings, path: str | Path) -> None:
    """Write the resolved settings as YAML that `load_settings` reads back."""
    OmegaConf.save(OmegaConf.structured(settings), path)


def _merge(kind: type, base: DictConfig, more: DictConfig, where: str) -> DictConfig:
    _check_keys(kind, OmegaConf.to_container(more), where)
    try:
        return OmegaConf.merge(base, more)
    except OmegaConfBaseException as error:
        key = getattr(error, "full_key", None)
        raise ValueError(f"{where}: {key}: {str(error).splitlines()[0]}") from None


def _check_keys(kind: type, values: dict, where: str, prefix: str = "") -> None:
    known = {f.name: f.type for f in dataclasses.fields(kind)}
    for key, value in values.items():
        if key not in known:
            close = difflib.get_close_matches(str(key), known, n=1)
            mend = f"did you mean '{prefix}{close[0]}'?" if close else f"known: {', '.join(known)}"
            raise ValueError(f"{where}: unknown setting '{prefix}{key}': {mend}")
        if dataclasses.is_dataclass(known[key]):
            if not isinstance(value, dict):
                raise ValueError(f"{where}: '{prefix}{key}' must be a section of settings, found {value!r}")
            _check_keys(known[key], value, where, f"{prefix}{key}.")
        elif part := _part_of_list(known[key]):
            if not isinstance(value, list) or not all(isinstance(one, dict) for one in value):
                raise ValueError(f"{where}: '{prefix}{key}' must be a list of sections, found {value!r}")
            for number, one in enumerate(value):
                _check_keys(part, one, where, f"{prefix}{key}[{number}].")


def _part_of_list(kind) -> type | None:
    """D for list[D] where D is a dataclass of settings."""
    if get_origin(kind) is list and dataclasses.is_dataclass(get_args(kind)[0]):
        return get_args(kind)[0]
    return None


def _construct(kind: type, values: dict):
    parts = {}
    for item in dataclasses.fields(kind):
        value = values[item.name]
        if dataclasses.is_dataclass(item.type):
            value = _construct(item.type, value)
        elif part := _part_of_list(item.type):
            value = [_construct(part, one) for one in value]
        parts[item.name] = value
    return kind(**parts)
