"""How a judge scores, as one table of the report: whether its dimensions say different things, and whether it repeats
itself. The paper calls its dimensions orthogonal; coverage is in two of them, so the correlation is printed."""

from collections.abc import Sequence
from itertools import combinations

from editcaption_mega.evaluation.stats.comparisons import dimension_correlations, judge_repeat_variance
from editcaption_mega.records import DIMENSIONS, Judgement

from .table_forms import Cell, Column, Table, TableRow

_SHORT = {"accuracy": "Acc", "completeness": "Comp", "clarity": "Clar"}


def judge_table(judgements: Sequence[Judgement], *, draws: int = 500) -> Table | None:
    """A row per judge, benchmark and model; None without judgements."""
    groups: dict[tuple[str, str, str], list[Judgement]] = {}
    for one in judgements:
        groups.setdefault((one.judge, one.benchmark, one.model), []).append(one)
    if not groups:
        return None
    rows = []
    for names, own in groups.items():
        found = dimension_correlations(own, draws=draws)
        cells = [Cell(name) for name in names]
        for pair in combinations(DIMENSIONS, 2):
            one = found[pair]["spearman"]
            cells.append(Cell(one.value, interval=one.interval, digits=2))
        repeats = judge_repeat_variance(own)["weighted"]
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
