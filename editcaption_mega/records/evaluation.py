"""What evaluation passes from step to step: an instruction that a model wrote, a judge's labels and scores, a person's
verdict. One JSON object per line each; optional fields are absent, never null."""

from typing import Annotated, Literal, get_args

from pydantic import ConfigDict, Field, StringConstraints, model_validator

from .pair import FailureMode
from .record import JsonObject, Record, Text

Dimension = Literal["accuracy", "completeness", "clarity"]
DIMENSIONS: tuple[Dimension, ...] = get_args(Dimension)

# Severity of a person's verdict (section 5.2.1), worst first; one per instruction.
Severity = Literal["P0", "P1", "P2", "correct"]
SEVERITIES: tuple[Severity, ...] = get_args(Severity)


PairId = Annotated[str, StringConstraints(min_length=1)]  # joined letter by letter, so blanks count


class EvaluationRecord(Record):
    """A record that is one line of a file."""

    model_config = ConfigDict(frozen=True)


class Instruction(EvaluationRecord):
    """What a model wrote for a pair, or why it wrote nothing (refused, no answer, failed). A text without words is
    none."""

    benchmark: Text
    id: PairId  # of the pair within the benchmark
    model: Text  # the name that reports print
    instruction: Text | None = None
    reason: Text | None = None  # why there is no instruction
    provenance: JsonObject = Field(default_factory=dict)  # served version, tokens, sampling settings

    @model_validator(mode="after")
    def _either(self) -> "Instruction":
        if (self.instruction is None) == (self.reason is None):
            raise ValueError("give 'instruction', or 'reason' when there is none, and not both")
        return self


class Assertion(EvaluationRecord):
    """One thing that an instruction claims, as the judge labels it (listing 1)."""

    text: str
    # correct; minor: wrong about something that is there and is no primary change; major: wrong about a primary change;
    # fabricated: an object or operation that is in neither picture; unrelated: nothing to do with these pictures
    verdict: Literal["correct", "minor", "major", "fabricated", "unrelated"]
    change: str | None = None  # id of the ground-truth change that it is about


class Judgement(EvaluationRecord):
    """One judge's labels for one instruction, and the scores that code computed from them (`evaluation.rubric`).

    A dimension that could not be judged is absent from `scores` and has a reason in `unscored`: never 0, never dropped.
    """

    benchmark: Text
    id: PairId
    model: Text
    judge: Text
    repeat: Annotated[int, Field(ge=0)] = 0
    scores: dict[Dimension, Annotated[float, Field(ge=1, le=5)]] = Field(default_factory=dict)
    unscored: dict[Dimension, Text] = Field(default_factory=dict)
    hits: list[str] = Field(default_factory=list)  # ids of primary changes that are mentioned
    misses: list[str] = Field(default_factory=list)  # the other primary changes
    secondary_hits: list[str] = Field(default_factory=list)
    assertions: list[Assertion] = Field(default_factory=list)
    forbidden: list[str] = Field(default_factory=list)  # terms of the lexicon (listing 3)
    failure_modes: list[FailureMode] = Field(default_factory=list)  # where the judge can tell
    correct: bool | None = None  # every primary change exactly and nothing else; where the judge can tell
    # paper mode: the judge's own numbers, and where they break its own rules
    judge_scores: dict[Dimension, float] | None = None
    deviations: list[Text] = Field(default_factory=list)
    provenance: JsonObject = Field(default_factory=dict)

    @model_validator(mode="after")
    def _every_dimension_has_an_end(self) -> "Judgement":
        for name in DIMENSIONS:
            if (name in self.scores) == (name in self.unscored):
                raise ValueError(f"{name} must be in 'scores', or in 'unscored' with a reason, and not in both")
        return self


class HumanVerdict(EvaluationRecord):
    """A person's verdict on one instruction: one severity, and the rows of the checklist (table 5) that it rests on."""

    benchmark: Text
    id: PairId
    model: Text
    annotator: Text
    severity: Severity
    rows: list[Annotated[int, Field(ge=1, le=8)]] = Field(default_factory=list)
    remark: str = ""
    off_subject: bool | None = None  # what rows 1 to 3 object to is not the main subject
    region_share: Annotated[float, Field(ge=0, le=1)] | None = None  # of the picture, that it takes up
