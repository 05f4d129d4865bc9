"""What records share: they come from JSON, strictly, and go back to it."""

from typing import Any, Self

from pydantic import BaseModel, ConfigDict, ValidationError


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


def first_sentence(error: ValidationError) -> str:
    """The first problem of a record, and how many more there are."""
    first = error.errors()[0]
    field = ".".join(str(part) for part in first["loc"])
    found = first.get("input")
    more = f" (and {error.error_count() - 1} more problems)" if error.error_count() > 1 else ""
    if first["type"] == "missing":
        return f"field '{field}' is missing{more}"
    if first["type"] == "extra_forbidden":
        return f"field '{field}' is not part of the schema: remove it or move it under 'provenance'{more}"
    if field == "id" and isinstance(found, str):
        return f"id {found!r} may hold letters, digits, '-' and '_' only (a dot would cut the shard key short){more}"
    if first["type"] == "value_error":
        return str(first["ctx"]["error"]) + more
    return f"field '{field}' is {found!r}: {first['msg']}{more}"
