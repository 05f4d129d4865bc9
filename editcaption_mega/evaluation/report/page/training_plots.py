"""The curves of the training runs behind a report's models."""

from collections.abc import Sequence

from editcaption_mega.evaluation.report.training_runs import REWARD_MARGIN, TrainingRun
from editcaption_mega.records.pair import FAILURE_MODES

from .line_plots import LinePlot, line_plot


def training_plots(runs: Sequence[TrainingRun]) -> list[LinePlot]:
    """The loss of the runs that learn from instructions; of those that learn preferences the reward margin, and that of
    the pairs of each failure mode."""
    from_instructions = [run for run in runs if not run.learns_preferences]
    from_preferences = [run for run in runs if run.learns_preferences]
    plots = []
    if from_instructions:
        losses = {run.name: run.curve("loss") for run in from_instructions}
        plots.append(line_plot("Loss, nats per response token", losses, logarithmic=True))
    if from_preferences:
        margins = {run.name: run.curve(REWARD_MARGIN) for run in from_preferences}
        plots.append(line_plot("Reward margin: chosen − rejected", margins))
    for run in from_preferences:
        by_mode = {mode: curve for mode in FAILURE_MODES if (curve := run.curve(f"{mode}/{REWARD_MARGIN}"))}
        if by_mode:
            plots.append(line_plot(f"Reward margin by failure mode, {run.name}", by_mode))
    return plots
