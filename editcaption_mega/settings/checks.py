"""What a setting may be; each check raises ValueError that names the setting, what was found and what was expected."""

from dataclasses import fields
from typing import Any, Literal, get_args, get_origin


def choices(section: str, settings: Any) -> None:
    """Each field of a dataclass of settings that is a Literal. section: what stands before a field's name."""
    for field in fields(settings):
        if get_origin(field.type) is Literal:
            choice(f"{section}{field.name}", getattr(settings, field.name), get_args(field.type))


def choice(name: str, value: str, expected: tuple[str, ...]) -> None:
    if value not in expected:
        raise ValueError(f"{name} is {value!r}, expected one of {', '.join(expected)}")


def at_least(name: str, value: float, least: float) -> None:
    if not value >= least:  # NaN is not at least anything
        raise ValueError(f"{name}={value} must be at least {least}")


def within(name: str, value: float, least: float, most: float) -> None:
    if not least <= value <= most:  # NaN is in no range
        raise ValueError(f"{name}={value} must lie in {least:g} .. {most:g}")
