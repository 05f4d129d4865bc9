"""What a setting may be; each check raises SettingsError that names the setting, what it is and what was expected."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import fields
from pathlib import Path
from typing import Any, Literal, get_args, get_origin


class SettingsError(ValueError):
    """Settings that cannot work, found before any work was done: exit code 2, which no second start would mend."""

    exit_code = 2


@contextmanager
def before_work() -> Iterator[None]:
    """Whatever a check refuses before any work is done is for the settings or the arguments to mend: a ValueError is a
    SettingsError, as is a path where there is nothing, or something else than was expected."""
    try:
        yield
    except ValueError as error:
        raise SettingsError(str(error)) from error
    except (FileNotFoundError, IsADirectoryError, NotADirectoryError, PermissionError) as error:
        raise SettingsError(f"{error.filename}: {error.strerror}") from error


def check_model_folder(folder: Path, what: str) -> None:
    """That a folder named in an option or a setting holds a Hugging Face model. what: its kind. Raises
    SettingsError."""
    if not folder.is_dir():
        raise SettingsError(f"{folder}: no such folder: expected one of a {what}")
    if not (folder / "config.json").is_file():
        raise SettingsError(f"{folder}: expected the folder of a {what}, found no config.json")


def choices(section: str, settings: Any) -> None:
    """Each field of a dataclass of settings that is a Literal. section: what stands before a field's name."""
    for field in fields(settings):
        if get_origin(field.type) is Literal:
            choice(f"{section}{field.name}", getattr(settings, field.name), get_args(field.type))


def choice(name: str, value: str, expected: tuple[str, ...]) -> None:
    if value not in expected:
        raise SettingsError(f"{name} is {value!r}, expected one of {', '.join(expected)}")


def at_least(name: str, value: float, least: float) -> None:
    if not value >= least:  # NaN is not at least anything
        raise SettingsError(f"{name}={value} must be at least {least}")


def within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN is in no range
        raise SettingsError(f"{name}={value} must lie in {least:g} .. {most:g}")
