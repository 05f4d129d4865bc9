"""The evaluation as files: one self-contained HTML page, tables 1 to 4 in three forms, and every number as JSON."""

import base64
import hashlib
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from editcaption_mega.evaluation.benchmarks import Benchmark
from editcaption_mega.evaluation.rubric.opinions import WEIGHTED
from editcaption_mega.evaluation.rubric.paper_tables import PaperTables, same_name
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.records import HumanVerdict, Instruction, Judgement

from .agreement_table import agreement_table, as_numbers
from .join import Joined, join
from .judge_table import judge_table
from .numbers import Evaluation, ModelScores, evaluate
from .plots import Heat, Plot, difference_plot, floor_of, heat, score_plot, share_plot
from .samples import chunks, overview, script_json
from .table_forms import Table, to_csv, to_latex, to_markdown
from .tables import Ablation, printed_scores, tables_of
from .thumbnails import THUMBNAIL_SIDE, byte_budget, pairs_as_text

FILE_BYTES = 56_000_000  # what a report of few thousand pairs stays below: page, data and pictures
DISAGREE = 1.0  # points of the weighted score from which models are said to disagree
_STYLES = ("report.css", "report_browser.css")
_SCRIPTS = ("report_state.js", "report_list.js", "report_compare.js", "report_detail.js", "report_main.js")
_BANDS = (2.0, 3.0, 4.0, 4.75)  # of scores, for colors


@dataclass(frozen=True)
class Panel:
    """The plots of one benchmark by one judge."""

    judge: str
    benchmark: str
    overall: Plot
    categories: list[Plot]
    correct: Plot | None
    faults: list[Plot]
    heat: Heat
    differences: Plot
    repeats: list[tuple[str, ModelScores]]  # of models that were judged more than once


def write_report(
    output: Path,
    benchmarks: Sequence[Benchmark],
    instructions: Iterable[Instruction],
    judgements: Iterable[Judgement],
    verdicts: Iterable[HumanVerdict] = (),
    *,
    title: str = "Evaluation report",
    facts: Sequence[tuple[str, str]] = (),
    paper: PaperTables | None = None,
    ablation: Ablation | None = None,
    more_tables: Sequence[Table] = (),
    draws: int = 2000,
    progress: Progress = no_progress,
) -> dict:
    """Write report.html, tables.md, tables.csv, tables.tex and numbers.json into the folder `output`; the numbers are
    returned too. Each file is whole or not there.

    facts: (name, value) rows of "how this was made" (dates, prompts' fingerprint, versions). paper: the paper's numbers
    to print beside ours. ablation: scale -> training -> model, for table 4. more_tables: printed after the others.
    progress: as `cli.progress`, for the pictures, which are most of the work. Raises ValueError as `join` and
    `tables_of` do, before anything is written."""
    judgements, verdicts = list(judgements), list(verdicts)
    joined = join(benchmarks, instructions, judgements, verdicts)
    found = evaluate(joined, draws=draws)
    tables = tables_of(found, paper, ablation)
    agreement = agreement_table(judgements, verdicts, draws=draws)
    tables += [table for table in (agreement, judge_table(judgements), *more_tables) if table]
    numbers = {"title": title, "facts": [list(fact) for fact in facts], **asdict(found)}
    numbers["agreement"] = as_numbers(agreement)
    output.mkdir(parents=True, exist_ok=True)
    _write(output / "tables.md", [to_markdown(tables)])
    _write(output / "tables.csv", [to_csv(tables)])
    _write(output / "tables.tex", [to_latex(tables)])
    _write(output / "numbers.json", [json.dumps(numbers, indent=2, ensure_ascii=False, allow_nan=False) + "\n"])
    page = _page(joined, found, tables, paper, title=title, facts=facts, has_ablation=bool(ablation), progress=progress)
    _write(output / "report.html", page)
    return numbers


def _page(
    joined: Joined,
    found: Evaluation,
    tables: list[Table],
    paper: PaperTables | None,
    *,
    title: str,
    facts,
    has_ablation: bool,
    progress: Progress,
) -> Iterator[str]:
    """The HTML in pieces; pictures are read and reduced while it is written."""
    style, script = _inline(_STYLES), "(() => {\n'use strict';\n" + _inline(_SCRIPTS) + "\n})();"
    samples = list(chunks(joined))
    pairs = sum(map(len, joined.benchmarks.values()))
    budget = byte_budget(2 * pairs, FILE_BYTES - sum(len(chunk.encode()) for chunk in samples) - 1_000_000)
    pictures = (Markup(text) for one in joined.benchmarks.values() for text in pairs_as_text(one, budget))
    pictures = progress(pictures, pairs, "pictures of the report")
    environment = Environment(
        loader=PackageLoader("editcaption_mega.evaluation.report"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.filters["band"] = lambda value: sum(value >= least for least in _BANDS)
    panels = [_panel(found, judge, name, paper) for judge, by_name in found.scores.items() for name in by_name]
    return environment.get_template("report.html.j2").generate(
        title=title, found=found, tables=tables, panels=panels, pairs=pairs, facts=facts,
        headlines=[(judge, line) for judge in found.judges for line in headlines(found, judge)],
        unwritten=sum(sum(one.unwritten.values()) for one in found.data_sets.values()),
        has_ablation=has_ablation, has_people=any(found.people.values()),
        from_paper=any(mark.paper is not None for panel in panels for mark in panel.overall.marks),
        style=Markup(style), style_hash=_hash(style), script=Markup(script), script_hash=_hash(script),
        side=THUMBNAIL_SIDE, budget=budget, pictures=pictures,
        chunks=map(Markup, samples), overview=Markup(script_json(overview(joined, disagree=DISAGREE))),
    )  # fmt: skip


def headlines(found: Evaluation, judge: str) -> list[str]:
    """One sentence per benchmark: who is highest, and who cannot be told apart from it."""
    lines = []
    for name, by_model in found.scores[judge].items():
        ranked = {model: one for model, one in by_model.items() if one.rank}
        if not ranked:
            lines.append(f"{name}: no instruction has a weighted score.")
            continue
        best = max(ranked, key=lambda model: ranked[model].means[WEIGHTED].value)
        mean = ranked[best].means[WEIGHTED]
        line = (
            f"{name}: {best} scores {mean.value:.3f} of 5 (95 % interval {mean.interval[0]:.2f}–{mean.interval[1]:.2f})"
        )
        apart = {(one.first, one.second): one.apart for one in found.comparisons[judge][name]}
        near = [
            model for model in ranked if model != best and not (apart.get((best, model)) or apart.get((model, best)))
        ]
        if len(ranked) == 1:
            lines.append(line + ".")
        elif near:
            lines.append(
                f"{line}, the highest; on the same pairs it is not settled that it is better than {_and(near)}."
            )
        else:
            lines.append(f"{line}, the highest; on the same pairs it is better than every other model.")
    return lines


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _panel(found: Evaluation, judge: str, name: str, paper: PaperTables | None) -> Panel:
    given = found.scores[judge][name]
    scores = dict(sorted(given.items(), key=lambda item: -(item[1].means[WEIGHTED].value or 0)))  # the best on top
    # Of the paper's numbers, those of our models: others are in table 2 alone.
    printed = {
        model: row[WEIGHTED]
        for model, row in printed_scores(paper, name).items()
        if any(same_name(model, m) for m in scores)
    }
    floor = floor_of(scores.values(), printed.values())
    kinds = list(dict.fromkeys(kind for one in scores.values() for kind in one.by_category))
    correct = {model: one.correct for model, one in scores.items() if one.correct}
    faults = list(dict.fromkeys(fault for one in scores.values() for fault in one.faults))
    rates = {fault: {model: one.faults[fault] for model, one in scores.items()} for fault in faults}
    top = max((rate.interval[1] for by_model in rates.values() for rate in by_model.values()), default=1.0)
    sizes = found.data_sets[name].categories
    return Panel(
        judge=judge,
        benchmark=name,
        overall=score_plot("Weighted score", {m: one.means[WEIGHTED] for m, one in scores.items()}, floor, printed),
        categories=[
            score_plot(f"{kind} ({sizes[kind]} pairs)", {m: one.by_category[kind] for m, one in scores.items()}, floor)
            for kind in kinds
        ],
        correct=share_plot("wholly correct", correct, 1.0) if correct else None,
        faults=[share_plot(fault, by_model, min(1.0, max(0.1, top))) for fault, by_model in rates.items()],
        heat=heat(scores),
        differences=difference_plot(
            "Weighted score, first − second, on the same pairs", found.comparisons[judge][name]
        ),
        repeats=[(model, one) for model, one in scores.items() if one.repeats > 1],
    )


def _inline(names: Sequence[str]) -> str:
    """Our own style or script files as one text. They must not end the element that holds them."""
    folder = resources.files("editcaption_mega.evaluation.report").joinpath("templates")
    text = "\n".join(folder.joinpath(name).read_text("utf-8").strip() for name in names)
    assert "</" not in text, "the page's own styles and scripts hold no closing tags"
    return text


def _hash(text: str) -> str:
    """For the Content-Security-Policy: this text may run or apply, and no other."""
    return "sha256-" + base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()


def _write(path: Path, parts: Iterable[str]) -> None:
    temporary = path.with_name(path.name + ".partial")
    with open(temporary, "w", encoding="utf-8", newline="\n") as file:
        file.writelines(parts)
    os.replace(temporary, path)
