"""How a judge scores, as one table of the report: whether its dimensions say different things, and whether it repeats
itself. The paper calls its dimensions orthogonal; coverage is in two of them, so the correlation is printed."""

from itertools import combinations

from editcaption_mega.evaluation.report.join import Joined
from editcaption_mega.evaluation.stats.comparisons import dimension_correlations, judge_repeat_variance
from editcaption_mega.records import DIMENSIONS

from .forms import Cell, Column, Table, TableRow

_SHORT = {"accuracy": "Acc", "completeness": "Comp", "clarity": "Clar"}


def judge_table(joined: Joined, *, draws: int = 500) -> Table | None:
    """A row per judge, benchmark and model; None without judgements."""
    if not joined.judges:
        return None
    rows = []
    for judge in joined.judges:
        for benchmark, model, opinions in joined.opinions(judge):
            correlations = dimension_correlations(opinions, draws=draws)
            cells = [Cell(judge), Cell(benchmark), Cell(model)]
            for dimensions in combinations(DIMENSIONS, 2):
                spearman = correlations[dimensions]["spearman"]
                cells.append(Cell(spearman.value, interval=spearman.interval, digits=2))
            repeats = judge_repeat_variance(opinions)["weighted"]
            cells += [Cell(repeats.within_sd, digits=3), Cell(repeats.reliability, digits=3)]
            rows.append(TableRow(tuple(cells)))
    columns = (
        *(Column(name, is_label=True) for name in ("Judge", "Test set", "Model")),
        *(Column(f"{_SHORT[a]}, {_SHORT[b]}", "Spearman correlation") for a, b in combinations(DIMENSIONS, 2)),
        *(Column(name, "Repeats") for name in ("sd of S", "reliability")),
    )
    notes = (
        "Correlation over the pairs of a set; – where a dimension does not vary. Near 1, two dimensions say the same.",
        "Repeats: standard deviation of S between judgements of one instruction, and the share of the variance that is "
        "the instruction's (ICC); – where each was judged once.",
    )
    return Table("judges", "How the judges score", columns, tuple(rows), notes)
