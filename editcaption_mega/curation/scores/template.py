"""A scorer as a file: what a model is asked about an instruction, and what its reply must be to count.

A reply that is not of the form is no score: no number is guessed, clamped, or put in the place of one."""

import hashlib
import json
import math
import re
from collections import Counter
from importlib import resources
from pathlib import Path
from string import Template
from typing import Any

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from editcaption_mega.data.text.quoting import escaped, quoted
from editcaption_mega.evaluation.reply_objects import last_object
from editcaption_mega.inference.endpoint.messages import Message, Picture

_PICTURES = ("source", "target")
_PLACES = {*_PICTURES, "instruction", "quoted_instruction"}
_COLUMN = re.compile(r"[a-z][a-z0-9_]*")
_TAKEN = {"id", "sample", "reason", "reply", "served", "status", "pass", "caption"}


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, strict=True)


class ScoreColumn(_Part):
    """A number between `least` and `most`, or one of `choices`, each worth a number."""

    field: str  # of the reply's JSON object
    item: int | None = Field(default=None, ge=0)  # where the field is a list
    least: float | None = None
    most: float | None = None
    choices: dict[str, float] | None = None

    @model_validator(mode="after")
    def _one_kind(self) -> "ScoreColumn":
        bounds = (self.least, self.most)
        if self.choices is not None and bounds != (None, None):
            raise ValueError("give least and most, or choices, and not both")
        if self.choices is None and (self.least is None or self.most is None or not self.least < self.most):
            raise ValueError("give least and most (a range), or choices")
        return self

    def value(self, given: Any, name: str) -> float:
        """Raises ValueError for what is none."""
        if self.choices is not None:
            if not isinstance(given, str) or given not in self.choices:
                raise ValueError(f"{name} is {given!r:.40}, expected one of {', '.join(self.choices)}")
            return self.choices[given]
        assert self.least is not None and self.most is not None
        is_number = isinstance(given, int | float) and not isinstance(given, bool)
        if not is_number or not math.isfinite(given) or not self.least <= given <= self.most:
            raise ValueError(f"{name} is {given!r:.40}, expected a number from {self.least:g} to {self.most:g}")
        number: float = given
        return number


class ScoreTemplate(_Part):
    """system, user: the conversation; an entry `${source}` or `${target}` of `user` is that picture, and texts hold
    `${instruction}` (in one line, as plain words) or `${quoted_instruction}` (a JSON string)."""

    version: int
    system: str = ""
    user: list[str]
    columns: dict[str, ScoreColumn] = Field(min_length=1)
    others: list[str] = []  # fields that a reply may hold beside those of the columns

    @model_validator(mode="after")
    def _is_whole(self) -> "ScoreTemplate":
        for picture in _PICTURES:
            if self.user.count(f"${{{picture}}}") != 1:
                raise ValueError(f"user must hold ${{{picture}}} once, as an entry of its own")
        texts = [part for part in self.user if part not in ("${source}", "${target}")]
        used = {place for text in (*texts, self.system) for place in _places(text)}
        if unknown := used - _PLACES | used & set(_PICTURES):
            raise ValueError(f"${{{min(unknown)}}} has no place in a text: known are instruction, quoted_instruction")
        if not used & {"instruction", "quoted_instruction"}:
            raise ValueError("no text holds ${instruction} or ${quoted_instruction}")
        for name in self.columns:
            if not _COLUMN.fullmatch(name) or name in _TAKEN:
                raise ValueError(
                    f"column {name!r}: give a short word of small letters that is none of {sorted(_TAKEN)}"
                )
        for field, items in self._items().items():
            numbers = sorted(item for item in items if item is not None)
            if items != [None] and numbers != list(range(len(items))):
                raise ValueError(f"field {field}: its columns must be the whole of it, or its items 0, 1, .. each once")
        return self

    def _items(self) -> dict[str, list[int | None]]:
        items: dict[str, list[int | None]] = {}
        for column in self.columns.values():
            items.setdefault(column.field, []).append(column.item)
        return items

    @property
    def fingerprint(self) -> str:
        content = json.dumps(self.model_dump(), sort_keys=True)
        return f"v{self.version}-{hashlib.sha256(content.encode()).hexdigest()[:12]}"

    def messages(self, source: Picture, target: Picture, instruction: str) -> tuple[Message, ...]:
        words = {"instruction": escaped(" ".join(instruction.split())), "quoted_instruction": quoted(instruction)}
        pictures = {"${source}": source, "${target}": target}
        user = Message("user", tuple(pictures.get(part) or Template(part).substitute(words) for part in self.user))
        if not self.system:
            return (user,)
        return Message("system", (Template(self.system).substitute(words),)), user

    def parse(self, text: str) -> dict[str, float]:
        """Column -> its number. Raises ValueError that says why a reply has none."""
        reply = last_object(text)
        known = {column.field for column in self.columns.values()}
        if unknown := sorted(reply.keys() - known - set(self.others)):
            raise ValueError(f"the reply has a field {unknown[0]!r:.40} that the template does not know")
        counts = Counter(column.field for column in self.columns.values() if column.item is not None)
        values = {}
        for name, column in self.columns.items():
            if column.field not in reply:
                raise ValueError(f"the reply's JSON object has no field {column.field!r}")
            given = reply[column.field]
            if column.item is not None:
                if not isinstance(given, list) or len(given) != counts[column.field]:
                    raise ValueError(
                        f"{column.field} is {given!r:.60}, expected a list of {counts[column.field]} numbers"
                    )
                given = given[column.item]
            values[name] = column.value(given, name)
        return values


def load_template(name: str) -> ScoreTemplate:
    """One of those that the package has, or a file. Raises ValueError that names the file and the problem."""
    shipped = resources.files("editcaption_mega.curation.scores").joinpath("templates", f"{name}.yaml")
    is_shipped = _COLUMN.fullmatch(name) is not None and shipped.is_file()
    if not is_shipped and not Path(name).is_file():
        raise ValueError(f"template {name!r} is neither a file nor one of {', '.join(shipped_templates())}")
    content = shipped.read_bytes() if is_shipped else Path(name).read_bytes()
    try:
        return ScoreTemplate.model_validate(yaml.safe_load(content))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ValueError(f"template {name} is not valid YAML: {' '.join(str(error).split())}") from None
    except ValidationError as error:
        first = error.errors()[0]
        where = ".".join(map(str, first["loc"])) or "the file"
        raise ValueError(f"template {name}: {where}: {first['msg'].removeprefix('Value error, ')}") from None


def shipped_templates() -> list[str]:
    folder = resources.files("editcaption_mega.curation.scores").joinpath("templates")
    return sorted(file.name.removesuffix(".yaml") for file in folder.iterdir() if file.name.endswith(".yaml"))


def _places(text: str) -> list[str]:
    """Raises ValueError for a `$` that begins no place."""
    template = Template(text)
    if not template.is_valid():
        raise ValueError(f"a text holds a $ that begins no place; write $$ for the sign: {text[:40]!r}")
    return template.get_identifiers()
