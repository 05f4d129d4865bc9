"""What the training runs behind a report's models took."""

from collections.abc import Sequence

from editcaption_mega.evaluation.report.training_runs import TrainingRun

from .forms import Cell, Column, Table, TableRow


def training_table(runs: Sequence[TrainingRun]) -> Table:
    """A row per run; printed on the page alone."""
    names = ("Steps", "Samples", "Tokens", "Minutes", "First loss", "Last loss")
    rows = []
    for run in runs:
        took = run.to_json()
        counts = (Cell(f"{took[key]:,}") for key in ("steps", "samples", "tokens"))
        numbers = (Cell(took["seconds"] / 60, digits=1), Cell(took["first_loss"]), Cell(took["last_loss"]))
        rows.append(TableRow((Cell(run.name), *counts, *numbers)))
    columns = (Column("Run", is_label=True), *map(Column, names))
    return Table("training-runs", "Training runs", columns, tuple(rows))
