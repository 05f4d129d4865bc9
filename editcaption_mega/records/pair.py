"""One source/target pair and what is known of it (the `KEY.json` member of a shard).

The taxonomy is the paper's (section 3.1): three categories; three failure modes (section 1).
"""

from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, StringConstraints, model_validator

from .record import JsonObject, Record, Text, Words

SCHEMA_VERSION: Final = 1

Category = Literal["semantic", "stylistic", "structural"]
FailureMode = Literal["orientation", "viewpoint", "detail"]
CATEGORIES: tuple[str, ...] = get_args(Category)
FAILURE_MODES: tuple[str, ...] = get_args(FailureMode)
ANSWERS = ("chosen", "rejected")  # of a preference pair

# A WebDataset key ends at its first dot, and a slash makes a folder: ids hold neither.
SampleId = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_\-]+$", min_length=1, max_length=200)]


def _no_word(value: Any) -> Any:
    if isinstance(value, bool) or value in ("P0", "P1", "P2", "correct"):
        hint = "" if isinstance(value, bool) else "; P0, P1 and P2 are words of people's verdicts"
        raise ValueError(f"field 'severity' is {value!r}: expected a number from 0 (slight) to 1 (worst){hint}")
    return value


Severity = Annotated[float, Field(ge=0.0, le=1.0), BeforeValidator(_no_word)]


class Change(BaseModel):
    """One change between the pictures, in words, under an id that a judge can refer to.

    `facts` holds the change in machine-readable form where the truth is known (the synthetic world)."""

    model_config = ConfigDict(extra="forbid")
    id: Text
    text: Text
    facts: JsonObject | None = None


class Changes(BaseModel):
    """Ground truth of one pair: the main edits, what follows from them, and one overall description."""

    model_config = ConfigDict(extra="forbid")
    primary: list[Change] = Field(min_length=1)
    secondary: list[Change] = Field(default_factory=list)
    overall: Text

    @model_validator(mode="after")
    def _ids_are_unique(self) -> "Changes":
        ids = [change.id for change in self.primary + self.secondary]
        if len(ids) != len(set(ids)):
            raise ValueError(f"change ids must be unique within a pair, found {ids}")
        return self


class EditPair(Record):
    """What one pair is, without its pictures. Optional fields are absent from the JSON, never null."""

    schema_version: Literal[1] = Field(default=SCHEMA_VERSION, alias="schema")
    id: SampleId
    category: Category
    edit_type: Words
    instruction: Words | None = None
    chosen: Words | None = None
    rejected: Text | None = None  # a model's own error may be anything but blank
    failure_modes: list[FailureMode] | None = None
    severity: Severity | None = None
    changes: Changes | None = None
    provenance: JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _preference_is_whole(self) -> "EditPair":
        if (self.chosen is None) != (self.rejected is None):
            raise ValueError("'chosen' and 'rejected' come together: give both or neither")
        if self.chosen is not None and self.chosen == self.rejected:
            raise ValueError("'chosen' and 'rejected' are the same text: a preference needs two different answers")
        return self
