"""The report's page: one self-contained HTML file, made in pieces."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from jinja2 import Environment
from markupsafe import Markup

from editcaption_mega.evaluation.report.changes import ModelChange, cards
from editcaption_mega.evaluation.report.join import Joined
from editcaption_mega.evaluation.report.numbers import Evaluation
from editcaption_mega.evaluation.report.tables.forms import Table
from editcaption_mega.evaluation.report.tables.paper_layout import Ablation
from editcaption_mega.evaluation.report.tables.training_table import training_table
from editcaption_mega.evaluation.report.training_runs import TrainingRun
from editcaption_mega.evaluation.rubric.paper_tables import PaperTables
from editcaption_mega.progress import Progress

from .panels import headlines, panels_of
from .samples import chunks, overview
from .self_contained import content_hash, inline, inline_script, page_environment, script_json
from .thumbnails import THUMBNAIL_SIDE, byte_budget, pairs_as_text
from .training_plots import training_plots

FILE_BYTES = 56_000_000  # what a report of few thousand pairs stays below: page, data and pictures
DISAGREE = 1.0  # points of the weighted score from which models are said to disagree
PACKAGE = "editcaption_mega.evaluation.report"
STYLES = ("report.css", "report_panels.css", "report_browser.css")
SCRIPTS = (
    "report_state.js", "report_list.js", "report_compare.js", "report_detail.js", "report_cards.js", "report_main.js",
)  # fmt: skip
_BANDS = (2.0, 3.0, 4.0, 4.75)  # of scores, for colors


@dataclass(frozen=True)
class ReportOptions:
    """What a report says and shows beside the results."""

    title: str = "Evaluation report"
    introduction: str = ""
    facts: Sequence[tuple[str, str]] = ()  # "how this was made": dates, prompts' fingerprint, versions
    paper: PaperTables | None = None  # the paper's numbers, printed beside ours
    ablation: Ablation | None = None  # scale -> training -> model, for table 4
    more_tables: Sequence[Table] = ()  # printed after the others
    before_after: tuple[str, str] | None = None  # the models between which pairs were mended and broken
    training: Sequence[TrainingRun] = ()  # of the models
    draws: int = 2000  # of the bootstrap


def page(
    joined: Joined,
    evaluation: Evaluation,
    tables: Sequence[Table],
    changes: Sequence[ModelChange],
    options: ReportOptions,
    progress: Progress,
) -> Iterator[str]:
    """The HTML in pieces; pictures are read and reduced while it is written."""
    style, script = inline(PACKAGE, STYLES), inline_script(PACKAGE, SCRIPTS)
    samples = list(chunks(joined))
    budget = byte_budget(2 * joined.pairs, FILE_BYTES - sum(len(chunk.encode()) for chunk in samples) - 1_000_000)
    pictures = (Markup(text) for benchmark in joined.benchmarks.values() for text in pairs_as_text(benchmark, budget))
    panels = list(panels_of(evaluation, options.paper))
    return _environment().get_template("report.html.j2").generate(
        title=options.title, introduction=options.introduction, facts=options.facts,
        evaluation=evaluation, tables=tables, score_panels=panels, pairs=joined.pairs,
        headlines=[(judge, line) for judge in evaluation.judges for line in headlines(evaluation, judge)],
        unwritten=sum(sum(one.unwritten.values()) for one in evaluation.data_sets.values()),
        has_ablation=bool(options.ablation), has_people=any(evaluation.people.values()),
        from_paper=any(mark.paper is not None for panel in panels for mark in panel.overall.marks),
        changes=[(one, cards(joined, one, one.mended), cards(joined, one, one.broken)) for one in changes],
        training_plots=training_plots(options.training),
        training_table=training_table(options.training), training_runs=options.training,
        style=Markup(style), style_hash=content_hash(style), script=Markup(script),
        script_hash=content_hash(script),
        side=THUMBNAIL_SIDE, budget=budget,
        pictures=progress(pictures, joined.pairs, "pictures of the report"),
        chunks=map(Markup, samples), overview=Markup(script_json(overview(joined, disagree=DISAGREE))),
    )  # fmt: skip


def _environment() -> Environment:
    environment = page_environment(PACKAGE)
    environment.filters["band"] = lambda value: sum(value >= least for least in _BANDS)
    return environment
