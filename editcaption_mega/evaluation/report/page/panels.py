"""What the page says and draws of the scores: a sentence per benchmark, and a panel of plots for each judge of it."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from editcaption_mega.evaluation.report.numbers import Evaluation, ModelScores
from editcaption_mega.evaluation.report.tables.paper_layout import printed_scores
from editcaption_mega.evaluation.rubric.opinions import WEIGHTED
from editcaption_mega.evaluation.rubric.paper_tables import PaperTables, same_name

from .plots import Heat, Plot, difference_plot, floor_of, heat, score_plot, share_plot

RARELY = 0.1  # of the pairs wholly correct: errors of a kind may then be few because texts say nothing of it


@dataclass(frozen=True)
class Panel:
    """The plots of one benchmark by one judge."""

    judge: str
    benchmark: str
    overall: Plot
    categories: list[Plot]
    correct: Plot | None
    faults: list[Plot]
    caution: str  # of models whose few errors say little; "" for none
    heat: Heat
    differences: Plot
    repeats: list[tuple[str, ModelScores]]  # of models that were judged more than once


def panels_of(evaluation: Evaluation, paper: PaperTables | None) -> Iterator[Panel]:
    for judge, by_benchmark in evaluation.scores.items():
        for benchmark in by_benchmark:
            yield _panel(evaluation, judge, benchmark, paper)


def headlines(evaluation: Evaluation, judge: str) -> list[str]:
    """One sentence per benchmark: who is highest, and who cannot be told apart from it."""
    return [_headline(evaluation, judge, benchmark) for benchmark in evaluation.scores[judge]]


def _headline(evaluation: Evaluation, judge: str, benchmark: str) -> str:
    ranked = {model: scores for model, scores in evaluation.scores[judge][benchmark].items() if scores.rank}
    if not ranked:
        return f"{benchmark}: no instruction has a weighted score."
    best = max(ranked, key=lambda model: ranked[model].means[WEIGHTED].value or 0.0)
    mean = ranked[best].means[WEIGHTED]
    assert mean.interval is not None, "what has a rank has scores"
    low, high = mean.interval
    line = f"{benchmark}: {best} scores {mean.value:.3f} of 5 (95 % interval {low:.2f}–{high:.2f})"
    if len(ranked) == 1:
        return f"{line}."
    settled = {frozenset((c.first, c.second)) for c in evaluation.comparisons[judge][benchmark] if c.apart}
    near = [model for model in ranked if model != best and frozenset((best, model)) not in settled]
    if near:
        return f"{line}, the highest; on the same pairs it is not settled that it is better than {_and(near)}."
    return f"{line}, the highest; on the same pairs it is better than every other model."


def _caution(models: Sequence[str]) -> str:
    """Beside the errors of models that are hardly ever right: the worst would look best."""
    if not models:
        return ""
    return (
        f"{_and(models)}: wholly correct on less than {100 * RARELY:.0f} % of the pairs. Few errors of a kind are no "
        "merit there: a text that names no direction, viewpoint or detail has none of them wrong."
    )


def _and(names: Sequence[str]) -> str:
    return names[0] if len(names) == 1 else ", ".join(names[:-1]) + " and " + names[-1]


def _panel(evaluation: Evaluation, judge: str, benchmark: str, paper: PaperTables | None) -> Panel:
    by_model = evaluation.scores[judge][benchmark]
    best_first = sorted(by_model.items(), key=lambda item: -(item[1].means[WEIGHTED].value or 0))
    scores = dict(best_first)
    # Of the paper's numbers, those of our models: others are in table 2 alone.
    printed = {
        model: row[WEIGHTED]
        for model, row in printed_scores(paper, benchmark).items()
        if any(same_name(model, ours) for ours in scores)
    }
    floor = floor_of(scores.values(), printed.values())
    sizes = evaluation.data_sets[benchmark].categories
    categories = list(dict.fromkeys(category for one in scores.values() for category in one.by_category))
    correct = {model: one.correct for model, one in scores.items() if one.correct}
    faults = list(dict.fromkeys(fault for one in scores.values() for fault in one.faults))
    rates = {fault: {model: one.faults[fault] for model, one in scores.items()} for fault in faults}
    top = max((rate.interval[1] for by_model in rates.values() for rate in by_model.values()), default=1.0)
    overall = {model: one.means[WEIGHTED] for model, one in scores.items()}
    compared = evaluation.comparisons[judge][benchmark]
    return Panel(
        judge=judge,
        benchmark=benchmark,
        overall=score_plot("Weighted score", overall, floor, printed),
        categories=[
            score_plot(
                f"{category} ({sizes[category]} pairs)",
                {model: one.by_category[category] for model, one in scores.items()},
                floor,
            )
            for category in categories
        ],
        correct=share_plot("wholly correct", correct, 1.0) if correct else None,
        faults=[share_plot(fault, shares, min(1.0, max(0.1, top))) for fault, shares in rates.items()],
        caution=_caution([model for model, one in correct.items() if one.share < RARELY]) if faults else "",
        heat=heat(scores),
        differences=difference_plot("Weighted score, first − second, on the same pairs", compared),
        repeats=[(model, one) for model, one in scores.items() if one.repeats > 1],
    )
