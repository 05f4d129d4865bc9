"""Tables 1 to 4 of the paper (EditCaption, arXiv 2604.08213 v1) as data, and which of them contradict its eq. 4."""

import re
from functools import cache
from importlib import resources
from typing import Annotated, Literal, NamedTuple

import yaml
from pydantic import BaseModel, BeforeValidator, ConfigDict

from .scores import weighted_score

BENCHMARKS = ("eval400", "hq_edit", "bytemorph")  # in the order of table 2
Group = Literal["closed", "open", "paper"]  # closed-source, open-source baselines, the paper's own


class PaperScores(NamedTuple):
    """One model on one benchmark, 1 .. 5. weighted: as printed, which is not always what its columns give."""

    weighted: float
    accuracy: float
    completeness: float
    clarity: float

    @property
    def recomputed(self) -> float:
        return weighted_score(self.accuracy, self.completeness, self.clarity)


Scores = Annotated[PaperScores, BeforeValidator(lambda cells: PaperScores(*cells))]


class _Row(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True, arbitrary_types_allowed=True)


class PaperBenchmark(_Row):
    name: str  # as the other tables call it
    title: str
    samples: int
    about: str


class _OnBenchmarks(_Row):
    model: str
    eval400: Scores
    hq_edit: Scores
    bytemorph: Scores

    def scores(self, benchmark: str) -> PaperScores:
        """benchmark: one of BENCHMARKS."""
        scores: PaperScores = getattr(self, benchmark)
        return scores


class ObjectiveRow(_OnBenchmarks):
    group: Group


class HumanRow(_Row):
    model: str
    group: Group
    correct: float  # per cent of 400 pairs, as the others
    P0: float
    P1: float
    P2: float


class AblationRow(_OnBenchmarks):
    training: Literal["SFT only", "DPO only", "SFT+DPO"]


class DoubtfulCell(_Row):
    """A cell (or the cells of one row) that contradicts something else in the paper."""

    table: int
    model: str
    column: str
    why: str


class PaperTables(_Row):
    benchmarks: list[PaperBenchmark]  # table 1
    objective: list[ObjectiveRow]  # table 2
    human: list[HumanRow]  # table 3
    ablation: list[AblationRow]  # table 4
    doubtful: list[DoubtfulCell]


class CompositeDeviation(NamedTuple):
    """A weighted score that does not follow from its columns."""

    model: str
    benchmark: str
    printed: float
    recomputed: float

    def __str__(self) -> str:
        return f"{self.model} on {self.benchmark}: printed {self.printed:.3f}, eq. 4 gives {self.recomputed:.3f}"


@cache
def paper_tables() -> PaperTables:
    file = resources.files("editcaption_mega.evaluation.rubric").joinpath("paper_tables.yaml")
    return PaperTables.model_validate(yaml.safe_load(file.read_text("utf-8")))


def composite_deviations(
    tolerance: float = 0.006, rows: list[ObjectiveRow] | list[AblationRow] | None = None
) -> list[CompositeDeviation]:
    """The weighted scores of `rows` (default: table 2) that miss eq. 4 by more than `tolerance`, in the table's order.

    Columns are printed to two decimals, which moves a weighted score by up to 0.005, and itself to three."""
    return [
        CompositeDeviation(row.model, benchmark, scores.weighted, scores.recomputed)
        for row in (paper_tables().objective if rows is None else rows)
        for benchmark in BENCHMARKS
        if abs((scores := row.scores(benchmark)).weighted - scores.recomputed) > tolerance
    ]


def same_name(name: str, other: str) -> bool:
    """Whether two names of models or data sets mean the same: letters, digits, + and . only, case aside."""
    return bare_name(name) == bare_name(other)


def bare_name(name: str) -> str:
    """What of a name counts when it is compared."""
    return re.sub(r"[^a-z0-9+.]", "", name.lower())
