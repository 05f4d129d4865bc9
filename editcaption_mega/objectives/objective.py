"""What a training job asks of an objective, and nothing else."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal, NamedTuple

import torch
from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.dataset import Answers

NO_STATISTICS = torch.zeros(0, dtype=torch.float64)


class RowLoss(NamedTuple):
    """What one packed row of samples, a micro-batch, contributes to a step.

    The loss is a sum; the loop divides by the count of the whole step, so that packing and the number of ranks change
    nothing."""

    loss: Tensor  # scalar fp32, differentiable: the sum over the row's tokens or pairs
    log_probs: Tensor  # [responses] fp32, detached: whose samples are not finite, when something is not
    statistics: Tensor  # [Objective.num_statistics] fp64, summed over the rows of a step


class Objective(ABC):
    """A loss on the response tokens of a model's last stage. `name`, `row_loss` and `count` are what it needs; the rest
    is for objectives that have more: another head, work before a step, numbers of their own, files, conditions."""

    name: ClassVar[str]  # part of a run's identity: only a run of the same objective is gone on with
    answers: ClassVar[Answers] = "instruction"  # what of each sample it trains on
    files: ClassVar[tuple[str, ...]] = ()  # what it writes into the run folder; NAME.partial is kept to go on with
    shown_metrics: ClassVar[Mapping[str, str]] = {}  # of its metrics: those of the progress line, and their names there
    # Of these, what says nothing at a step that has another metric -> that one; the progress line has "-" there.
    blank_with: ClassVar[Mapping[str, str]] = {}
    # Of its metrics, and the loss, those by which the best checkpoint may be chosen, and where they are better.
    better: ClassVar[Mapping[str, Literal["lower", "higher"]]] = {"loss": "lower"}
    num_statistics: int = 0

    @property
    def identity(self) -> dict[str, str]:
        """What a resumed run must find as it was, beside the settings and the data."""
        return {}

    @property
    def head(self) -> Literal["log_probs"] | Callable[..., Any]:
        """What the last stage makes of a row: the log-probs of its response tokens [T] fp32, or what a function returns
        for (the hidden states that predict them [T, h], LM-head weight shard [V/tp, h], batch, the keywords of
        `kernels.linear_log_probs`)."""
        return "log_probs"

    @abstractmethod
    def row_loss(self, output: Any, batch: PackedBatch) -> RowLoss:
        """The loss of one row from the head's output."""

    @abstractmethod
    def count(self, response_tokens: int, samples: int) -> int:
        """What the sum over a step is divided by, from its response tokens and its samples over all ranks."""

    def prepare(self, micro_batches: list[PackedBatch], length: int) -> None:
        """Before the forward pass of a step, whose micro-batches have `length` tokens each. Collective."""
        return None

    def check_step(self, loss: float, gather: Callable[[Any], list[Any]]) -> None:
        """Between the backward pass and the update of a step whose loss is finite. Collective.

        gather: an item of each rank -> those of all, on every rank. Raises ValueError, alike on every rank, where
        training must not go on; the weights are then still those of before the step."""
        return None

    def metrics(self, statistics: Tensor) -> dict[str, float]:
        """The step's own metrics from the summed statistics [num_statistics] fp64 on the host."""
        return {}
