"""A table as plain data, and its forms: Markdown, CSV, LaTeX. The HTML report prints the same tables."""

import csv
import io
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace

from editcaption_mega.evaluation.report.numbers import Interval


@dataclass(frozen=True)
class Cell:
    """One value. interval: its 95 % interval; unscored: pairs it leaves out, and bounds what they could make of it."""

    value: str | float | int | None
    interval: Interval | None = None
    unscored: int = 0
    bounds: Interval | None = None
    digits: int = 3
    unit: str = ""
    strong: bool = False

    @property
    def text(self) -> str:
        if self.value is None:
            return "–"
        return f"{self.value:.{self.digits}f}{self.unit}" if isinstance(self.value, float) else f"{self.value}"

    @property
    def detail(self) -> str:
        """The interval, one digit shorter than scores are, so that a table of many columns stays narrow."""
        if self.interval is None:
            return ""
        digits = min(self.digits, 2)
        return f"{self.interval[0]:.{digits}f}–{self.interval[1]:.{digits}f}"

    @property
    def missing(self) -> str:
        """How many pairs the value leaves out, where its bounds are known."""
        if not self.unscored or self.bounds is None:
            return ""
        return f"{self.unscored} unscored ({self.bounds[0]:.2f}–{self.bounds[1]:.2f})"


@dataclass(frozen=True)
class Column:
    name: str
    group: str = ""
    is_label: bool = False  # the column names its row
    is_text: bool = False

    @property
    def align(self) -> str:
        return "l" if self.is_label or self.is_text else "r"


@dataclass(frozen=True)
class TableRow:
    cells: tuple[Cell, ...]
    from_paper: bool = False

    def label(self, cell: Cell) -> str:
        return f"paper: {cell.text}" if self.from_paper else cell.text


@dataclass(frozen=True)
class Table:
    key: str
    title: str
    columns: tuple[Column, ...]
    rows: tuple[TableRow, ...]
    notes: tuple[str, ...] = ()


def to_markdown(tables: Sequence[Table]) -> str:
    """GitHub's Markdown; what would be markup in a name is escaped."""
    parts = []
    for table in tables:
        heads = [f"{column.group} {column.name}".strip() for column in table.columns]
        lines = [f"## {_markdown(table.title)}", "", "| " + " | ".join(map(_markdown, heads)) + " |"]
        lines.append("|" + "|".join(" --- " if column.align == "l" else " ---: " for column in table.columns) + "|")
        for row in table.rows:
            lines.append("| " + " | ".join(map(_markdown_cell, _printed(table, row))) + " |")
        parts.append("\n".join([*lines, *(f"\n{_markdown(note)}" for note in table.notes)]))
    return "\n\n".join(parts) + "\n"


def _printed(table: Table, row: TableRow) -> list[Cell]:
    """The row's cells, its last label saying whose row it is."""
    last = max((i for i, column in enumerate(table.columns) if column.is_label), default=-1)
    return [replace(cell, value=row.label(cell)) if i == last else cell for i, cell in enumerate(row.cells)]


def _markdown_cell(cell: Cell) -> str:
    text = _markdown(cell.text)
    parts = [f"**{text}**" if cell.strong else text, f"[{cell.detail}]" if cell.detail else "", _markdown(cell.missing)]
    return " ".join(part for part in parts if part)


def _markdown(text: str) -> str:
    return re.sub(r"([\\`*_\[\]<>|~&])", r"\\\1", " ".join(text.split()))


CSV_COLUMNS = ("table", "row", "source", "group", "column", "value", "low", "high", "unscored")


# What spreadsheets take for the beginning of a formula, or for a break before one.
_FORMULA = re.compile(r"[\t\r\n]|\s*[=+\-@\uff1d\uff0b\uff0d\uff20|%]")


def _csv_cell(value: str | float | int) -> str | float | int:
    """A text that no spreadsheet runs as a formula: names of models and judges come from anywhere."""
    return f"'{value}" if isinstance(value, str) and _FORMULA.match(value) else value


def to_csv(tables: Sequence[Table]) -> str:
    """All tables in one long form, a line per value with CSV_COLUMNS; source is "ours" or "paper". A text that begins
    as a formula does has an apostrophe before it."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="\n")
    writer.writerow(CSV_COLUMNS)
    for table in tables:
        for row in table.rows:
            cells = list(zip(table.columns, row.cells, strict=True))
            label = " / ".join(cell.text for column, cell in cells if column.is_label)
            for column, cell in cells:
                if not column.is_label and cell.value is not None:
                    low, high = cell.interval or ("", "")
                    source = "paper" if row.from_paper else "ours"
                    ends = (cell.value, low, high, cell.unscored if cell.interval else "")
                    texts = (table.title, label, source, column.group, column.name, *ends)
                    writer.writerow(map(_csv_cell, texts))
    return buffer.getvalue()


def to_latex(tables: Sequence[Table]) -> str:
    """One table environment each; needs the packages booktabs and graphicx."""
    parts = ["% Needs \\usepackage{booktabs,graphicx} and a UTF-8 LaTeX."]
    for table in tables:
        groups = [(c.group, sum(o.group == c.group for o in table.columns)) for c in table.columns]
        spec = "".join(column.align for column in table.columns)
        lines = [r"\begin{table*}", r"\centering", rf"\caption{{{_latex(table.title)}}}"]
        lines += [r"\resizebox{\textwidth}{!}{%", rf"\begin{{tabular}}{{{spec}}}", r"\toprule"]
        if any(group for group, _ in groups):
            heads = [
                rf"\multicolumn{{{n}}}{{c}}{{{_latex(group)}}}" if group else " & ".join([""] * n)
                for group, n in dict.fromkeys(groups)
            ]
            lines.append(" & ".join(heads) + r" \\")
        lines += [" & ".join(_latex(column.name) for column in table.columns) + r" \\", r"\midrule"]
        lines += [" & ".join(map(_latex_cell, _printed(table, row))) + r" \\" for row in table.rows]
        lines += [r"\bottomrule", r"\end{tabular}}", *(rf"\par\footnotesize {_latex(note)}" for note in table.notes)]
        parts.append("\n".join([*lines, r"\end{table*}"]))
    return "\n\n".join(parts) + "\n"


def _latex_cell(cell: Cell) -> str:
    text = _latex(cell.text)
    small = " ".join(part for part in (cell.detail, cell.missing) if part)
    return (rf"\textbf{{{text}}}" if cell.strong else text) + (rf" {{\scriptsize {_latex(small)}}}" if small else "")


_LATEX = {c: "\\" + c for c in "&%$#_{}"} | {
    "\\": r"\textbackslash{}",
    "~": r"\textasciitilde{}",
    "^": r"\textasciicircum{}",
    "<": r"\textless{}",
    ">": r"\textgreater{}",
    "–": "--",
}


def _latex(text: str) -> str:
    return "".join(_LATEX.get(character, character) for character in " ".join(text.split()))
