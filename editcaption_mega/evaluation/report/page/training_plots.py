"""The curves of the training runs behind a report's models."""

from collections.abc import Sequence

from editcaption_mega.evaluation.report.training_runs import HELD_OUT, REWARD_MARGIN, TrainingRun
from editcaption_mega.records.pair import FAILURE_MODES

from .line_plots import Curve, LinePlot, line_plot


def training_plots(runs: Sequence[TrainingRun]) -> list[LinePlot]:
    """The loss of the runs that learn from instructions; of those that learn preferences the reward margin, and that of
    the pairs of each failure mode. Beside each what the run measured on its held-out pairs, if it did."""
    from_instructions = [run for run in runs if not run.learns_preferences]
    from_preferences = [run for run in runs if run.learns_preferences]
    plots = []
    if from_instructions:
        plots.append(_with_held_out("Loss, nats per response token", from_instructions, "loss", logarithmic=True))
    if from_preferences:
        plots.append(_with_held_out("Reward margin: chosen − rejected", from_preferences, REWARD_MARGIN))
    for run in from_preferences:
        by_mode = {mode: curve for mode in FAILURE_MODES if (curve := run.curve(f"{mode}/{REWARD_MARGIN}"))}
        if by_mode:
            plots.append(line_plot(f"Reward margin by failure mode, {run.name}", by_mode))
    return plots


def _with_held_out(title: str, runs: Sequence[TrainingRun], key: str, *, logarithmic: bool = False) -> LinePlot:
    """The curve of each run, and what it measured on its held-out pairs, which is a mean over all of them as it is."""
    curves: dict[str, Curve] = {}
    exact = []
    for run in runs:
        curves[run.name] = run.curve(key)
        if held_out := run.curve(HELD_OUT + key):
            exact.append(f"{run.name}, held out")
            curves[exact[-1]] = held_out
    return line_plot(title, curves, logarithmic=logarithmic, exact=exact)
