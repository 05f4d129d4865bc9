"""What is looked at while a job trains."""

from dataclasses import dataclass

from .checks import at_least


@dataclass
class TrainingEvaluationSettings:
    """When training stands still to be looked at."""

    every: int = 0  # steps between evaluations; there is one after the last step, too; 0: none at all

    def validate(self) -> None:
        at_least("evaluation.every", self.every, 0)
