"""Tables 1 to 4 and their three forms."""

import csv
import io

import pytest

from editcaption_mega.evaluation.report.join import join
from editcaption_mega.evaluation.report.numbers import evaluate
from editcaption_mega.evaluation.report.tables.forms import (
    CSV_COLUMNS,
    Cell,
    Column,
    Table,
    TableRow,
    to_csv,
    to_latex,
    to_markdown,
)
from editcaption_mega.evaluation.report.tables.paper_layout import tables_of
from editcaption_mega.evaluation.rubric.paper_tables import paper_tables, same_name
from tests.helpers.report_samples import judged, people, synthetic_benchmark, written

SFT = "Qwen3-VL-32B-Instruct (SFT)"
ABLATION = {"Qwen3-VL-32B": {"base": "base", "SFT only": SFT}}
NASTY = 'a|b & 50 % of $x_1 #2 {c} \\d ~ ^ <e>, "f" *g* [h] `i`'


@pytest.fixture(scope="module")
def evaluation(tmp_path_factory):
    benchmark = synthetic_benchmark(tmp_path_factory.mktemp("shards") / "s", 24, "eval400")
    rows = written(benchmark, "base", mistakes=0.7, refuses=0.1) + written(benchmark, SFT, mistakes=0.1)
    joined = join([benchmark], rows, judged(benchmark, rows), people(benchmark, rows[:24]))
    return evaluate(joined, draws=500)


@pytest.fixture(scope="module")
def tables(evaluation):
    return {table.key: table for table in tables_of(evaluation, paper_tables(), ABLATION)}


def cells(table, label, *, from_paper=False):
    """Column -> cell of the row of this label."""
    names = [f"{column.group} {column.name}".strip() for column in table.columns]
    rows = [row.cells for row in table.rows if row.from_paper == from_paper]
    return next(dict(zip(names, found, strict=True)) for found in rows if label in [cell.text for cell in found])


def test_the_four_tables(tables):
    assert list(tables) == ["table-1", "table-2", "table-3", "table-4"]
    one = cells(tables["table-1"], "eval400")
    assert one["#Samples"].value == 24 and one["#Samples in the paper"].value == 400


def test_the_papers_row_stands_under_ours(tables):
    table = tables["table-2"]
    labels = [(row.from_paper, row.cells[0].text) for row in table.rows]
    assert labels[:3] == [(False, "base"), (False, SFT), (True, SFT)]
    assert labels.count((True, SFT)) == 1 and (True, "Gemini-3-Pro") in labels
    assert "| paper: Qwen3-VL-32B-Instruct (SFT) | – | 4.349 |" in to_markdown([table])
    printed = cells(table, SFT, from_paper=True)
    assert [printed[f"eval400 {name}"].text for name in ("Rank", "S", "Acc", "Comp", "Clar")] == [
        "–", "4.349", "4.30", "4.58", "3.98",
    ]  # fmt: skip
    notes = " ".join(table.notes)
    assert "24 pairs here and 400 in the paper" in notes and "its columns give 4.180" in notes


def test_sets_of_other_names_get_no_number_of_the_paper(evaluation):
    table = tables_of(evaluation, None, None)[1]
    assert not any(row.from_paper for row in table.rows)
    assert (
        same_name("Eval-400", "eval400") and same_name("HQ-Edit", "hq_edit") and not same_name("HQ-Edit", "HQ-Edit-2")
    )
    assert not same_name("Qwen3-VL-32B-Instruct (SFT)", "Qwen3-VL-32B-Instruct (SFT+DPO)")


def test_means_carry_intervals_and_what_is_unscored(tables):
    base = cells(tables["table-2"], "base")["eval400 S"]
    assert base.interval[0] < base.value < base.interval[1]
    assert base.unscored and base.missing == f"{base.unscored} unscored ({base.bounds[0]:.2f}–{base.bounds[1]:.2f})"
    assert any("unscored" in note for note in tables["table-2"].notes)


def test_no_model_is_ranked_above_one_that_it_overlaps_with(evaluation):
    scores = evaluation.scores["rule judge"]["eval400"]
    table = tables_of(evaluation)[1]
    base, sft = cells(table, "base"), cells(table, SFT)
    assert scores["base"].means["weighted"].interval[1] < scores[SFT].means["weighted"].interval[0]
    assert (base["eval400 Rank"].text, sft["eval400 Rank"].text) == ("2", "1") and not base["eval400 S"].strong
    # The rule judge's clarity of the two overlaps: both are bold, or neither is said to be best.
    low = max(scores[model].means["completeness"].interval[0] for model in scores)
    high = min(scores[model].means["completeness"].interval[1] for model in scores)
    assert low <= high and base["eval400 Comp"].strong and sft["eval400 Comp"].strong


def test_human_shares_add_up(tables):
    row = cells(tables["table-3"], "base")
    assert sum(row[name].value for name in ("Correct", "P0", "P1", "P2")) == pytest.approx(100)
    assert row["Correct"].interval[0] < row["Correct"].value < row["Correct"].interval[1]
    assert cells(tables["table-3"], "Gemini-3-Pro", from_paper=True)["P0"].text == "21.00 %"


def test_the_ablation_names_models_that_are_there(evaluation, tables):
    table = tables["table-4"]
    assert [row.cells[1].text for row in table.rows] == ["base", "SFT only", "SFT only"] and table.rows[2].from_paper
    assert table.rows[2].cells[2].text == "4.349"
    with pytest.raises(ValueError, match="there is no model 'x'; models here: base, Qwen3"):
        tables_of(evaluation, None, {"s": {"base": "x"}})


def nasty_table():
    columns = (Column("Model", is_label=True), Column("S_1", "50 % | set"))
    rows = (TableRow((Cell(NASTY), Cell(4.5, (4.25, 4.75), 2, (4.1, 4.6), strong=True))),)
    return Table("t", "A & B", columns, rows, ("100 %",))


def test_markdown_escapes():
    text = to_markdown([nasty_table()])
    line = next(line for line in text.splitlines() if "4.500" in line)
    assert line.replace("\\|", "").count("|") == 3  # the row keeps its two cells
    assert line.startswith("| a\\|b \\& 50 % of $x\\_1 #2 {c} \\\\d \\~ ^ \\<e\\>, ")
    assert line.endswith("| **4.500** [4.25–4.75] 2 unscored (4.10–4.60) |")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r", "\n", " =", "\uff1d"])
def test_C5_no_cell_of_a_csv_is_a_formula(start):
    """A spreadsheet that opens the table runs nothing, whatever a model or a judge is called; numbers stay numbers."""
    name = f'{start}HYPERLINK("http://x","y")'
    columns = (Column(name, is_label=True), Column(name, name), Column(name, is_text=True))
    table = Table("t", name, columns, (TableRow((Cell(name), Cell(-1.5, (-2.0, -1.0)), Cell(name))),))
    rows = list(csv.DictReader(io.StringIO(to_csv([table]), newline="")))
    assert [row["value"] for row in rows] == ["-1.5", f"'{name}"] and rows[0]["low"] == "-2.0"
    assert {row[field] for row in rows for field in ("table", "row", "column")} == {f"'{name}"}


def test_csv_is_read_back():
    rows = list(csv.DictReader(io.StringIO(to_csv([nasty_table()]))))
    assert tuple(rows[0]) == CSV_COLUMNS and len(rows) == 1
    assert rows[0]["row"] == NASTY and rows[0]["group"] == "50 % | set" and rows[0]["source"] == "ours"
    assert [float(rows[0][name]) for name in ("value", "low", "high", "unscored")] == [4.5, 4.25, 4.75, 2]


def test_latex_escapes():
    text = to_latex([nasty_table()])
    line = next(line for line in text.splitlines() if "4.500" in line)
    assert line.replace(r"\&", "").count("&") == 1 and line.endswith(r" \\")
    assert (
        r"50 \% of \$x\_1 \#2 \{c\} \textbackslash{}d \textasciitilde{} \textasciicircum{} \textless{}e\textgreater{}"
        in line
    )
    assert r"\textbf{4.500} {\scriptsize 4.25--4.75 2 unscored (4.10--4.60)}" in line
    assert r" & \multicolumn{1}{c}{50 \% | set} \\" in text and r"\caption{A \& B}" in text
    assert text.count(r"\begin{") == text.count(r"\end{") == 2


def test_every_row_of_latex_has_every_column(tables):
    for table in tables.values():
        body = to_latex([table]).split(r"\midrule")[1].split(r"\bottomrule")[0]
        counts = {line.replace(r"\&", "").count("&") for line in body.splitlines() if line.endswith(r"\\")}
        assert counts == {len(table.columns) - 1}


def test_two_judges_have_a_table_each(tmp_path):
    benchmark = synthetic_benchmark(tmp_path / "s", 8, "eval400")
    rows = written(benchmark, "m", mistakes=0.5)
    scored = judged(benchmark, rows) + judged(benchmark, rows, judge="a second judge", wobble=1.0)
    found = evaluate(join([benchmark], rows, scored), draws=200)
    tables = tables_of(found, None, {"s": {"base": "m"}})
    assert [table.key for table in tables] == ["table-1", "table-2-1", "table-2-2", "table-4-1", "table-4-2"]
    assert tables[2].title == "Table 2: scores (judge: a second judge)"
    clarity = [cells(table, "m")["eval400 Clar"].value for table in tables[1:3]]
    assert clarity[1] < clarity[0]
