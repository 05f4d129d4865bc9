"""People's verdicts: the checklist of table 5, its hierarchy, several annotators made one, and the paper's table 3.

An answer, whatever tool it was given in, is one JSON object: {"task", "annotator", "severity", "rows", and where they
are known "remark", "off_subject", "region_share"}. A row of the checklist is its number, or severity and number where
the tool files rows under severities ("P1-2")."""

from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from typing import Annotated, Any, Literal

from pydantic import Field

from editcaption_mega.evaluation.stats.intervals import wilson_interval
from editcaption_mega.records import SEVERITIES, HumanVerdict
from editcaption_mega.records.evaluation import Severity

from .filed_answers import Filed, FiledAnswer, Refused, one_each, refused_answer
from .tasks import Key, checklist

ADJUDICATIONS = ("majority", "worst")
LARGE_REGION = 0.1  # of the picture: an error off the subject is P0 above it, P1 up to it (table 5, rows 1 to 3)


@cache
def _severities_of_row() -> dict[int, tuple[str, ...]]:
    return {row["id"]: tuple(row["severities"]) for row in checklist()["rows"]}


class AnnotatorAnswer(FiledAnswer):
    """What an annotator files for a task."""

    severity: Severity
    rows: list[Annotated[int, Field(ge=1, le=8)] | Annotated[str, Field(pattern=r"^P[0-2]-[1-8]$")]] = []
    remark: str = ""
    off_subject: bool | None = None
    region_share: Annotated[float, Field(ge=0, le=1)] | None = None


@dataclass(frozen=True)
class Imported:
    accepted: list[HumanVerdict] = field(default_factory=list)
    refused: list[Refused] = field(default_factory=list)
    unanswered: list[str] = field(default_factory=list)  # tasks of the key without an accepted verdict


def import_answers(answers: Iterable[Filed], key: Key) -> Imported:
    """Verdicts of the answers that keep the rules, and the others with the reason; every answer is in one of the two.

    An annotator's second answer to a task is refused when it says the same; when it says something else both are, for
    nobody but the annotator can tell which one is meant (H1). Raises nothing for a bad answer."""
    single, refused = one_each(
        answers, AnnotatorAnswer, key.tasks, "the key: give the key of the export it belongs to",
        lambda answer: answer.severity,
    )  # fmt: skip
    accepted: list[HumanVerdict] = []
    for where, answer in single:
        try:
            accepted.append(_verdict(answer, key))
        except ValueError as error:
            refused.append(refused_answer(where, answer.to_json(), str(error)))
    done = {(verdict.benchmark, verdict.id, verdict.model) for verdict in accepted}
    return Imported(accepted, refused, [task for task, what in key.tasks.items() if what not in done])


def _verdict(answer: AnnotatorAnswer, key: Key) -> HumanVerdict:
    for row in answer.rows:
        level = row.partition("-")[0] if isinstance(row, str) else answer.severity
        if level != answer.severity:
            raise ValueError(
                f"H1: {row} is filed beside the verdict {answer.severity}: one verdict per pair, the worst, and only "
                "rows of that severity"
            )
    numbers = [int(str(row)[-1]) for row in answer.rows]
    benchmark, pair, model = key.tasks[answer.task]
    verdict = HumanVerdict(
        benchmark=benchmark, id=pair, model=model, rows=sorted(set(numbers)),
        **answer.model_dump(include={"annotator", "severity", "remark", "off_subject", "region_share"}),
    )  # fmt: skip
    check_hierarchy(verdict)
    return verdict


def check_hierarchy(verdict: HumanVerdict) -> None:
    """Raises ValueError, one sentence, for a verdict that breaks H1 (section 5.2.1: the one severity is the worst, and
    nothing of another is filed beside it) or H2 (table 5: which rows are which severity, and the 1/10 of the picture
    that makes an error off the subject P0)."""
    severity, rows = verdict.severity, verdict.rows
    if severity == "correct":
        if rows:
            raise ValueError(f"H1: the verdict is correct, yet it files {_named(rows)}: choose the row's severity")
        return
    if not rows:
        raise ValueError(f"H2: the verdict {severity} rests on no row of the checklist: name at least one")
    for row in rows:
        allowed = _severities_of_row()[row]
        if severity in allowed:
            continue
        if SEVERITIES.index(severity) < SEVERITIES.index(allowed[0]):
            raise ValueError(
                f"H1: row {row} is {' or '.join(allowed)} and may not be filed beside a {severity}: leave it out"
            )
        raise ValueError(f"H2: row {row} is {' or '.join(allowed)}, so the verdict cannot be {severity}")
    by_place = [row for row in rows if len(_severities_of_row()[row]) > 1]
    large = verdict.region_share is not None and verdict.region_share > LARGE_REGION
    if severity == "P1" and by_place:
        if verdict.off_subject is False:
            raise ValueError(f"H2: {_named(by_place)} on the main subject is P0, so the verdict cannot be P1")
        if large:
            raise ValueError(
                f"H2: {_named(by_place)} takes up {verdict.region_share:.3g} of the picture, more than 1/10: that is P0"
            )
    if severity == "P0" and by_place == rows and verdict.off_subject and verdict.region_share is not None and not large:
        raise ValueError(
            f"H2: {_named(by_place)} is off the subject and takes up {verdict.region_share:.3g} of the picture, not "
            "more than 1/10: that is P1"
        )


def _named(rows: Sequence[int]) -> str:
    return f"row{'s' if len(rows) > 1 else ''} {', '.join(map(str, rows))}"


def most_frequent(severities: Sequence[Severity]) -> Severity:
    """Of equally frequent ones the worst."""
    counts = Counter(severities)
    return max(counts, key=lambda severity: (counts[severity], -SEVERITIES.index(severity)))


def adjudicate(verdicts: Iterable[HumanVerdict], rule: Literal["majority", "worst"] = "majority") -> list[HumanVerdict]:
    """One verdict per instruction, with the rule as its annotator. "majority": the most frequent severity, of equals
    the worst; "worst": the worst that anyone chose. Rows and remarks are those of the annotators who chose it.

    Raises ValueError for another rule."""
    if rule not in ADJUDICATIONS:
        raise ValueError(f"adjudication rule is {rule!r}, expected one of {', '.join(ADJUDICATIONS)}")
    together: dict[tuple[str, str, str], list[HumanVerdict]] = {}
    for verdict in verdicts:
        together.setdefault((verdict.benchmark, verdict.id, verdict.model), []).append(verdict)
    found = []
    for (benchmark, pair, model), ones in together.items():
        severities = [one.severity for one in ones]
        severity = most_frequent(severities) if rule == "majority" else min(severities, key=SEVERITIES.index)
        behind = [one for one in ones if one.severity == severity]
        rows = sorted({row for one in behind for row in one.rows})
        remark = " / ".join(one.remark for one in behind if one.remark)
        found.append(
            HumanVerdict(
                benchmark=benchmark, id=pair, model=model, annotator=rule, severity=severity, rows=rows, remark=remark
            )
        )
    return found


@dataclass(frozen=True)
class SeverityRow:
    """A row of the paper's table 3: how many of n instructions have each severity."""

    benchmark: str
    model: str
    counts: dict[Severity, int]  # of every severity, the worst first

    @property
    def n(self) -> int:
        return sum(self.counts.values())

    def percent(self, severity: Severity) -> float:
        return 100 * self.counts[severity] / self.n

    def interval(self, severity: Severity) -> tuple[float, float]:
        """95 % Wilson interval of the percentage."""
        low, high = wilson_interval(self.counts[severity], self.n)
        return 100 * low, 100 * high

    def to_json(self) -> dict[str, Any]:
        shares = {s: {"percent": self.percent(s), "interval": list(self.interval(s))} for s in SEVERITIES}
        return {"benchmark": self.benchmark, "model": self.model, "n": self.n, "counts": self.counts, "shares": shares}


def severity_table(verdicts: Iterable[HumanVerdict]) -> list[SeverityRow]:
    """Table 3: a row per benchmark and model, in the order they first come. correct + P0 + P1 + P2 = n (H3).

    Raises ValueError for an instruction with several verdicts: `adjudicate` makes one of them."""
    tables: dict[tuple[str, str], Counter[str]] = {}
    seen = set()
    for verdict in verdicts:
        unit = (verdict.benchmark, verdict.model, verdict.id)
        if unit in seen:
            raise ValueError(f"{verdict.model}'s instruction for {verdict.id} has several verdicts: adjudicate first")
        seen.add(unit)
        tables.setdefault(unit[:2], Counter())[verdict.severity] += 1
    return [SeverityRow(*unit, {s: counts[s] for s in SEVERITIES}) for unit, counts in tables.items()]


def impossible_percentages(percentages: Iterable[float], n: int, decimals: int = 2) -> list[float]:
    """Those that no count of n instructions gives, rounded to so many decimals (H3: multiples of 100 / n)."""
    possible = {round(100 * count / n, decimals) for count in range(n + 1)}
    return [percentage for percentage in percentages if round(percentage, decimals) not in possible]
