"""What is looked at while a job trains, and what follows from it."""

from dataclasses import dataclass

from .checks import SettingsError, at_least


@dataclass
class TrainingEvaluationSettings:
    """When training stands still to be looked at, and when it has seen enough."""

    every: int = 0  # steps between evaluations of the held-out pairs; one comes after the last step, too; 0: none
    metric: str = "held_out/loss"  # what `patience` and checkpoint.keep_best go by; docs/runs.md has the names
    patience: int = 0  # evaluations in a row without a better `metric`, after which the run ends; 0: it goes on

    def validate(self) -> None:
        at_least("evaluation.every", self.every, 0)
        at_least("evaluation.patience", self.patience, 0)
        if not self.metric.startswith("held_out/"):
            raise SettingsError(
                f"evaluation.metric={self.metric} is no metric of held-out pairs: name one, such as held_out/loss"
            )


def check_evaluation(
    evaluation: TrainingEvaluationSettings, *, holds_out: bool, keep_best: bool, checkpoint_every: int
) -> None:
    """Whether they fit to what is held out and kept. Raises SettingsError."""
    if evaluation.every and not holds_out:
        raise SettingsError(
            f"evaluation.every={evaluation.every} and no pairs are held out: name folders of some (data.held_out), or "
            "a share of the training pairs (data.held_out_share)"
        )
    wanted = {f"evaluation.patience={evaluation.patience}": evaluation.patience, "checkpoint.keep_best=true": keep_best}
    for setting, value in wanted.items():
        if value and not evaluation.every:
            raise SettingsError(f"{setting} goes by evaluations, and evaluation.every is 0: set that, too")
    if keep_best and checkpoint_every % evaluation.every:
        raise SettingsError(
            f"checkpoint.keep_best=true compares checkpoints, and checkpoint.every={checkpoint_every} is no multiple "
            f"of evaluation.every={evaluation.every}, so some would have no {evaluation.metric}: make it one"
        )
