"""The table of blind execution: per test set and model, how near its edits came to the target."""

from collections.abc import Mapping, Sequence

from editcaption_mega.evaluation.execution.execute import COPY, Execution, summarize

from .forms import Cell, Column, Table, TableRow


def execution_table(executions: Mapping[str, Mapping[str, Sequence[Execution]]], seed: int = 0) -> Table | None:
    """benchmark -> model -> executions, as a table of the report; None without any."""
    if not executions:
        return None
    rows = []
    for benchmark, by_model in executions.items():
        for one in summarize(by_model, seed):
            mean = Cell(one.mean, interval=one.interval, digits=4)
            cells = (Cell(benchmark), Cell(one.model), Cell(one.measure), mean, Cell(one.executed), Cell(one.failed))
            rows.append(TableRow(cells))
    columns = tuple(Column(name, is_label=True) for name in ("Test set", "Instructions of", "Measure"))
    columns += tuple(Column(name) for name in ("Result against target", "Executed", "Not executed"))
    notes = (
        f"An image editor executed each instruction on the source, without the target. {COPY}: the untouched source.",
        "The editor's own skill is in these numbers: compare models under one editor.",
    )
    return Table("execution", "Blind execution", columns, tuple(rows), notes)
