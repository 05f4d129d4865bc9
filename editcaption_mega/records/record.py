"""What records share: they come from JSON, strictly, and go back to it."""

import math
import re
from typing import Annotated, Any, Self

from pydantic import AfterValidator, BaseModel, ConfigDict, StringConstraints, ValidationError
from pydantic_core import PydanticCustomError

LARGEST_RECORD = 4 << 20  # bytes of one record's JSON
_BLANK_LETTERS = "\u115f\u1160\u3164\uffa0"  # fillers of Hangul: letters by their category, and nothing to see
_CONTROL = re.compile(r"[^\t\n\r\x20-\U0010ffff]")
_DEEPEST = 50  # objects and lists inside each other; readers of JSON give up at some hundreds


class RecordError(ValueError):
    """A record that breaks the schema; the message is one sentence that names the field and the mend."""


class Record(BaseModel):
    """One JSON object of the project."""

    model_config = ConfigDict(extra="forbid", populate_by_name=True)

    @classmethod
    def from_json(cls, row: Any, *, where: str = "row") -> Self:
        """Validate one JSON object. Raises RecordError with one sentence that says where and what."""
        if not isinstance(row, dict):
            raise RecordError(f"{where}: expected a JSON object, found {type(row).__name__}")
        try:
            return cls.model_validate(row)
        except ValidationError as error:
            raise RecordError(f"{where}: {first_sentence(error)}") from None

    def to_json(self) -> dict[str, Any]:
        """The JSON object that `from_json` reads back."""
        return self.model_dump(by_alias=True, exclude_none=True)


def not_json(value: Any, depth: int = 0) -> str | None:
    """Why a value has no JSON form that every reader takes ("holds NaN", ..); None where it has one."""
    if depth > _DEEPEST:
        return f"is nested more than {_DEEPEST} deep"
    if value is None or isinstance(value, bool):
        return None
    if isinstance(value, str):
        return None if _is_unicode(value) else "holds half a character (a lone surrogate)"
    if isinstance(value, int):
        return None if value.bit_length() <= 64 else "holds an integer of more than 64 bits"
    if isinstance(value, float):
        return None if math.isfinite(value) else f"holds {value}, which JSON has no number for"
    if isinstance(value, dict):
        parts = (part for item in value.items() for part in item)
        if not all(isinstance(key, str) for key in value):
            return "has a key that is no text"
    elif isinstance(value, list | tuple):
        parts = iter(value)
    else:
        return f"holds a {type(value).__name__}, which JSON has no form for"
    return next((problem for part in parts if (problem := not_json(part, depth + 1))), None)


def _json_object(value: dict[str, Any]) -> dict[str, Any]:
    if problem := not_json(value):
        raise PydanticCustomError("unusable_content", "{problem}", {"problem": problem})
    return value


def has_words(text: str) -> bool:
    """Whether a text has a letter or a digit, of any script, that somebody can see."""
    return any(sign.isalnum() and sign not in _BLANK_LETTERS for sign in text)


def words_problem(text: str) -> str | None:
    """Why a text is none that can be trained on and shown ("is '..': it has no letter or digit; .."); None: it is."""
    if control := _CONTROL.search(text):
        return f"is {shown(text)}: it holds a control character ({control[0]!r}); take it out"
    if not has_words(text):
        return f"is {shown(text)}: it has no letter or digit; give a text or leave the field out"
    return None


def _with_words(text: str) -> str:
    if problem := words_problem(text):
        raise PydanticCustomError("unusable_content", "{problem}", {"problem": problem})
    return text


Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Words = Annotated[Text, AfterValidator(_with_words)]  # what is trained on and shown
JsonObject = Annotated[dict[str, Any], AfterValidator(_json_object)]


def first_sentence(error: ValidationError) -> str:
    """The first problem of a record, and how many more there are."""
    problems = error.errors()
    missing = [_field(problem) for problem in problems if problem["type"] == "missing"]
    first = problems[0]
    field, found = _field(first), first.get("input")
    together = missing if first["type"] == "missing" else [field]
    count = error.error_count() - len(together)
    more = f" (and {count} more problems)" if count else ""
    if first["type"] == "missing":
        others = f", as {'is' if len(missing) == 2 else 'are'} {' and '.join(missing[1:])}" if missing[1:] else ""
        return f"field {field} is missing{others}{more}"
    if first["type"] == "extra_forbidden":
        return f"field {field} is not part of the schema: remove it or move it under 'provenance'{more}"
    if first["type"] == "unusable_content":
        return f"field {field} {first['msg']}{more}"
    if first["loc"] == ("id",) and isinstance(found, str):
        if len(found) > 200:
            return f"id {shown(found)} has {len(found)} characters: at most 200 may be{more}"
        return f"id {found!r} may hold letters, digits, '-' and '_' only (a dot would cut the shard key short){more}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"]) + more
    if first["type"] == "string_too_short":
        return f"field {field} is {shown(found)}: it is empty; give a text or leave the field out{more}"
    if first["type"] == "string_type":
        return f"field {field} is {shown(found)}: expected a text, in quotes{more}"
    if first["type"] == "string_unicode":
        return f"field {field} holds half a character (a lone surrogate): write it again{more}"
    return f"field {field} is {shown(found)}: {first['msg']}{more}"


def _field(problem: Any) -> str:
    return "'" + ".".join(str(part) for part in problem["loc"]) + "'"


def shown(value: Any) -> str:
    """A value in a sentence: control characters escaped, and cut where it is long."""
    text = repr(value)
    return text if len(text) <= 80 else text[:77] + ".."


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
