"""Tables 1 to 4 in the layout of the paper, its numbers beside ours where the data set is the same."""

from collections.abc import Iterable, Mapping
from dataclasses import replace
from typing import cast

from editcaption_mega.evaluation.report.numbers import Evaluation, ModelScores, Rate
from editcaption_mega.evaluation.rubric.opinions import MEASURES, WEIGHTED
from editcaption_mega.evaluation.rubric.paper_tables import PaperBenchmark, PaperTables, bare_name, same_name
from editcaption_mega.records import SEVERITIES

from .forms import Cell, Column, Table, TableRow

PAPER = "EditCaption, arXiv 2604.08213"
IN_HOUSE = "eval400"  # the set of the paper's table 3
_SHORT = {WEIGHTED: "S", "accuracy": "Acc", "completeness": "Comp", "clarity": "Clar"}
_NOT_RANKED = "Bold: the best, and all whose intervals overlap with its."


# Table 4: scale -> training ("base", "SFT only", "DPO only", "SFT+DPO") -> our model.
Ablation = Mapping[str, Mapping[str, str]]


def tables_of(
    evaluation: Evaluation, paper: PaperTables | None = None, ablation: Ablation | None = None
) -> list[Table]:
    """Tables 1 to 4, tables 2 and 4 once per judge; table 3 where there are verdicts, table 4 where `ablation` says
    which models it compares. Raises ValueError when that names a model that is not there."""
    for scale, trainings in (ablation or {}).items():
        for training, model in trainings.items():
            if model not in evaluation.models:
                raise ValueError(
                    f"ablation {scale}, {training}: there is no model {model!r}; models here: "
                    f"{', '.join(evaluation.models)}"
                )
    judged = [_scores(evaluation, judge, paper) for judge in evaluation.judges]
    people = [_people(evaluation, name, paper) for name, models in evaluation.people.items() if models]
    ablated = [_ablation(evaluation, judge, ablation, paper) for judge in evaluation.judges if ablation]
    tables = [_data_sets(evaluation, paper)]
    for several in (judged, people, ablated):
        numbered = enumerate(several, start=1) if len(several) > 1 else ()
        tables += [replace(table, key=f"{table.key}-{number}") for number, table in numbered] or several
    return tables


def set_of_paper(paper: PaperTables | None, benchmark: str) -> PaperBenchmark | None:
    """The paper's data set of this name (as its tables or their titles say it)."""
    sets = paper.benchmarks if paper else []
    return next((one for one in sets if same_name(one.name, benchmark) or same_name(one.title, benchmark)), None)


def printed_scores(paper: PaperTables | None, benchmark: str) -> dict[str, dict[str, float]]:
    """Table 2: model -> measure -> what the paper prints for this benchmark; empty where it is none of the paper's."""
    paper_set = set_of_paper(paper, benchmark)
    if paper is None or paper_set is None:
        return {}
    return {row.model: row.scores(paper_set.name)._asdict() for row in paper.objective}


def _printed_people(paper: PaperTables | None, benchmark: str) -> dict[str, dict[str, float]]:
    """Table 3, which is of the in-house set alone: model -> severity -> per cent."""
    paper_set = set_of_paper(paper, benchmark)
    if paper is None or paper_set is None or paper_set.name != IN_HOUSE:
        return {}
    return {row.model: {name: getattr(row, name) for name in SEVERITIES} for row in paper.human}


def _printed_ablation(paper: PaperTables | None, benchmark: str, scale: str, training: str) -> dict[str, float]:
    paper_set = set_of_paper(paper, benchmark)
    if paper is None or paper_set is None:
        return {}
    printed = (row for row in paper.ablation if same_name(row.model, scale) and same_name(row.training, training))
    return next((row.scores(paper_set.name)._asdict() for row in printed), {})


def _named(printed: Mapping[str, Mapping[str, float]], model: str) -> Mapping[str, float]:
    return next((scores for paper_model, scores in printed.items() if same_name(paper_model, model)), {})


def _doubts(paper: PaperTables | None, table: int, benchmarks: Iterable[str]) -> list[str]:
    """Where the paper's own numbers contradict each other, of the sets that are printed."""
    sets = {one.name for name in benchmarks if (one := set_of_paper(paper, name))}
    doubts = [
        d for d in (paper.doubtful if paper and sets else []) if d.table == table and (table != 2 or d.column in sets)
    ]
    sentences = "; ".join(f"{one.model}, {one.column}: {one.why}" for one in doubts)
    return [f"The paper contradicts itself here: {sentences}."] if sentences else []


def _data_sets(evaluation: Evaluation, paper: PaperTables | None) -> Table:
    rows = []
    for name, one in evaluation.data_sets.items():
        kinds = ", ".join(f"{category} {count}" for category, count in one.categories.items())
        paper_set = set_of_paper(paper, name)
        printed = paper_set.samples if paper_set else None
        truth = "all" if one.with_truth == one.pairs else one.with_truth
        characteristics = f"{kinds}; {len(one.edit_types)} edit types"
        rows.append(
            TableRow(tuple(map(Cell, (name, one.pairs, printed, characteristics, truth, one.fingerprint[:12]))))
        )
    columns = (
        Column("Dataset", is_label=True),
        Column("#Samples"),
        Column("#Samples in the paper"),
        Column("Characteristics", is_text=True),
        Column("With ground truth"),
        Column("Fingerprint", is_text=True),
    )
    return Table("table-1", "Table 1: evaluation data sets", columns, tuple(rows))


def _scores(evaluation: Evaluation, judge: str, paper: PaperTables | None) -> Table:
    """Table 2: ours, under each model of the paper's its row, then the paper's other models on the same sets."""
    by_benchmark = evaluation.scores[judge]
    groups = tuple(by_benchmark)
    columns = [Column("Model", is_label=True)]
    for name in groups:
        columns += [Column("Rank", name), *(Column(_SHORT[measure], name) for measure in MEASURES)]
    printed = {name: printed_scores(paper, name) for name in groups}
    rows, matched = [], set()
    for model in evaluation.models:
        cells = [Cell(model)]
        for name in groups:
            one = by_benchmark[name].get(model)
            cells.append(Cell(_places(one.rank) if one and one.rank else None))
            cells += _mean_cells(one)
        rows.append(TableRow(tuple(cells)))
        ours_in_paper = {name: _named(printed[name], model) for name in groups}
        if any(ours_in_paper.values()):
            matched.add(bare_name(model))
            rows.append(_paper_row(model, ours_in_paper))
    others = dict.fromkeys(model for name in groups for model in printed[name] if bare_name(model) not in matched)
    for model in others:
        rows.append(_paper_row(model, {name: printed[name].get(model, {}) for name in groups}))
    notes = [
        "S = 0.4 Acc + 0.4 Comp + 0.2 Clar (eq. 4), 1 to 5; intervals: 95 %, bootstrap over pairs.",
        "Rank: the places that the intervals of S allow; models whose intervals overlap share them. " + _NOT_RANKED,
        "Comparing two models on the same pairs tells more than two intervals do: see the paired differences.",
    ]
    if any(one.means[measure].unscored for by in by_benchmark.values() for one in by.values() for measure in MEASURES):
        notes.append(
            "Means are of the scored pairs. After the number of unscored ones: what S would be over all pairs if each "
            "missing score of a dimension were 1, and if it were 5."
        )
    if any(row.from_paper for row in rows):
        notes.append(f"Rows of the paper ({PAPER}) are as printed, by its own judge runs, and have no intervals.")
        sizes = {
            name: (evaluation.data_sets[name].pairs, one.samples)
            for name in groups
            if (one := set_of_paper(paper, name))
        }
        notes += [f"{name} has {n} pairs here and {m} in the paper." for name, (n, m) in sizes.items() if n != m]
        notes += _doubts(paper, 2, groups)
    return Table("table-2", f"Table 2: scores (judge: {judge})", tuple(columns), _bold(rows), tuple(notes))


def _places(rank: tuple[int, int]) -> str:
    return str(rank[0]) if rank[0] == rank[1] else f"{rank[0]}–{rank[1]}"


def _mean_cells(one: ModelScores | None) -> list[Cell]:
    """The bounds stand at the weighted score alone: a pair without it lacks a dimension, and there are never more."""
    if one is None:
        return [Cell(None)] * len(MEASURES)
    cells = [Cell(m.value, m.interval, m.unscored) for measure in MEASURES if (m := one.means[measure])]
    if not cells:
        return [Cell(None)] * len(MEASURES)
    return [replace(cells[0], bounds=one.means[WEIGHTED].bounds), *cells[1:]]


def _paper_row(label: str, by_benchmark: Mapping[str, Mapping[str, float]]) -> TableRow:
    cells = [Cell(label)]
    for scores in by_benchmark.values():
        cells += [Cell(None), *_paper_cells(scores)]
    return TableRow(tuple(cells), from_paper=True)


def _paper_cells(scores: Mapping[str, float]) -> list[Cell]:
    return [Cell(scores.get(measure), digits=3 if measure == WEIGHTED else 2) for measure in MEASURES]


def _bold(rows: Iterable[TableRow]) -> tuple[TableRow, ...]:
    """In each column with intervals: the highest of ours, and every one whose interval overlaps with its."""
    rows = list(rows)
    for i in range(len(rows[0].cells) if rows else 0):
        ours = [row.cells[i] for row in rows if row.cells[i].interval and not row.from_paper]
        if len(ours) < 2:
            continue
        best = max(ours, key=lambda cell: cast(float, cell.value))  # what has an interval is a number
        assert best.interval is not None
        for r, row in enumerate(rows):
            cell = row.cells[i]
            if cell.interval and not row.from_paper and cell.interval[1] >= best.interval[0]:
                rows[r] = replace(row, cells=(*row.cells[:i], replace(cell, strong=True), *row.cells[i + 1 :]))
    return tuple(rows)


def _people(evaluation: Evaluation, benchmark: str, paper: PaperTables | None) -> Table:
    order = ("correct", *(name for name in SEVERITIES if name != "correct"))
    columns = (
        Column("Model", is_label=True),
        Column("Pairs"),
        Column("Annotators"),
        *(Column(n.capitalize()) for n in order),
    )
    printed, rows = _printed_people(paper, benchmark), []

    def paper_row(model: str) -> TableRow:
        shares = (Cell(printed[model].get(name), digits=2, unit=" %") for name in order)
        return TableRow((Cell(model), Cell(None), Cell(None), *shares), from_paper=True)

    models = evaluation.people[benchmark]
    for model, one in models.items():
        rows.append(
            TableRow((Cell(model), Cell(one.pairs), Cell(one.annotators), *(_share(one.shares[n]) for n in order)))
        )
        rows += [paper_row(paper_model) for paper_model in printed if same_name(paper_model, model)]
    rows += [
        paper_row(paper_model) for paper_model in printed if not any(same_name(paper_model, model) for model in models)
    ]
    notes = [
        "P0: critical, the instruction cannot be used; P1: moderate; P2: minor. Intervals: 95 %, Wilson.",
        "Several annotators of a pair count as one: the severity that most chose, the worse one in a tie.",
        *_doubts(paper, 3, [benchmark] if printed else []),
    ]
    return Table("table-3", f"Table 3: human verdicts on {benchmark}", columns, tuple(rows), tuple(notes))


def _share(rate: Rate) -> Cell:
    return Cell(100 * rate.share, (100 * rate.interval[0], 100 * rate.interval[1]), digits=2, unit=" %")


def _ablation(evaluation: Evaluation, judge: str, ablation: Ablation, paper: PaperTables | None) -> Table:
    columns = [Column("Test set", is_label=True), Column("Training", is_label=True)]
    columns += [Column(_SHORT[measure], scale) for scale in ablation for measure in MEASURES]
    trainings = list(dict.fromkeys(training for models in ablation.values() for training in models))
    rows: list[TableRow] = []
    for name, by_model in evaluation.scores[judge].items():
        block: list[TableRow] = []
        for training in trainings:
            cells = [Cell(name), Cell(training)]
            paper_cells = [Cell(name), Cell(training)]
            for scale, models in ablation.items():
                cells += _mean_cells(by_model.get(models.get(training, "")))
                paper_cells += _paper_cells(_printed_ablation(paper, name, scale, training))
            block.append(TableRow(tuple(cells)))
            if any(cell.value is not None for cell in paper_cells[2:]):
                block.append(TableRow(tuple(paper_cells), from_paper=True))
        rows += _bold(block)
    title = f"Table 4: what each stage of training adds (judge: {judge})"
    return Table("table-4", title, tuple(columns), tuple(rows), (_NOT_RANKED,))
