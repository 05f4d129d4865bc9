"""How far people agree with each other, and each judge with people, as one table of the report."""

from typing import Any

from editcaption_mega.evaluation.human.agreement import annotator_agreement, judge_human_agreement
from editcaption_mega.evaluation.human.verdicts import adjudicate
from editcaption_mega.evaluation.report.join import Joined
from editcaption_mega.evaluation.stats.intervals import Estimate

from .forms import Cell, Column, Table, TableRow

_KAPPA, _ALPHA = "weighted kappa (quadratic)", "Krippendorff's alpha (ordinal)"


def agreement_table(joined: Joined, *, draws: int = 2000) -> Table | None:
    """None without verdicts. Units are instructions (one model's for one pair), of all benchmarks and models."""
    verdicts = joined.verdicts_as_given
    if not verdicts:
        return None
    rows = []
    if len({verdict.annotator for verdict in verdicts}) > 1:
        among = annotator_agreement(verdicts, draws=draws)
        rows.append(_row("annotators", "severity", _ALPHA, among.alpha, among.percent))
        for (first, second), kappa in among.kappas.items():
            rows.append(_row(f"{first} and {second}", "severity", _KAPPA, kappa, None))
    people = adjudicate(verdicts)
    for judge in joined.judges:
        opinions = {
            (benchmark, pair_id, model): opinion
            for benchmark, model, by_id in joined.opinions(judge)
            for pair_id, opinion in by_id.items()
        }
        for mapping in ("labels", "correct"):
            agreement = judge_human_agreement(opinions, people, mapping, draws=draws)
            if agreement.kappa.n:
                what = "severity, from labels" if mapping == "labels" else "correct or not"
                rows.append(_row(f"{judge} and people", what, _KAPPA, agreement.kappa, agreement.percent))
    names = ("Of", "Measure")
    columns = (
        Column("Between", is_label=True),
        *(Column(name, is_label=True) for name in names),
        *map(Column, ("Agreement", "Same answer", "Instructions")),
    )
    notes = (
        "1 is full agreement, 0 what chance gives. Several annotators of an instruction count as one beside a judge.",
        "Instructions that a judge could not score, or that nobody judged, are left out.",
    )
    return Table("agreement", "Agreement", columns, tuple(rows), notes) if rows else None


def as_numbers(table: Table | None) -> list[dict[str, Any]]:
    """The same for numbers.json."""
    names = ("between", "of", "measure", "agreement", "same_percent", "instructions")
    agreements = []
    for row in table.rows if table else ():
        values = {name: cell.value for name, cell in zip(names, row.cells, strict=True)}
        agreements.append(values | {"interval": row.cells[3].interval, "same_percent_interval": row.cells[4].interval})
    return agreements


def _row(between: str, what: str, measure: str, agreement: Estimate, same: Estimate | None) -> TableRow:
    same_cell = Cell(None)
    if same is not None and same.value is not None:
        interval = same.interval and (100 * same.interval[0], 100 * same.interval[1])
        same_cell = Cell(100 * same.value, interval, digits=1, unit=" %")
    value = Cell(agreement.value, agreement.interval, digits=2)
    return TableRow((Cell(between), Cell(what), Cell(measure), value, same_cell, Cell(agreement.n)))
