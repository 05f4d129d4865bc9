"""The evaluation as files: one self-contained HTML page, tables 1 to 4 in three forms, and every number as JSON."""

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

from editcaption_mega.files import replacing, write_atomically
from editcaption_mega.progress import Progress, no_progress

from .changes import changes_of
from .join import Joined
from .numbers import evaluate
from .page.html import ReportOptions, page
from .tables.agreement_table import agreement_table, as_numbers
from .tables.forms import to_csv, to_latex, to_markdown
from .tables.judge_table import judge_table
from .tables.paper_layout import tables_of


def write_report(
    output: Path,
    joined: Joined,
    options: ReportOptions | None = None,
    *,
    progress: Progress = no_progress,
) -> dict[str, Any]:
    """Write report.html, tables.md, tables.csv, tables.tex and numbers.json into the folder `output`; the numbers are
    returned too. Each file is whole or not there.

    progress: as `progress_display.progress`, for the pictures, which are most of the work. Raises ValueError as
    `tables_of` and `changes_of` do, before anything is written."""
    options = options or ReportOptions()
    evaluation = evaluate(joined, draws=options.draws)
    tables = tables_of(evaluation, options.paper, options.ablation)
    agreement = agreement_table(joined, draws=options.draws)
    tables += [table for table in (agreement, judge_table(joined), *options.more_tables) if table]
    changes = list(changes_of(joined, *options.before_after)) if options.before_after else []
    numbers = {"title": options.title, "facts": [list(fact) for fact in options.facts], **asdict(evaluation)}
    numbers["agreement"] = as_numbers(agreement)
    numbers["changes"] = [asdict(change) for change in changes]
    numbers["training"] = {run.name: run.to_json() for run in options.training}
    output.mkdir(parents=True, exist_ok=True)
    write_atomically(output / "tables.md", to_markdown(tables))
    write_atomically(output / "tables.csv", to_csv(tables))
    write_atomically(output / "tables.tex", to_latex(tables))
    content = json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False)
    write_atomically(output / "numbers.json", content + "\n")
    with replacing(output / "report.html") as file:
        file.writelines(page(joined, evaluation, tables, changes, options, progress))
    return numbers
