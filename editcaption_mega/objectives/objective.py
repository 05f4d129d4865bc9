"""What the training loop asks of an objective, and nothing else."""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch


class RowLoss(NamedTuple):
    """What one row contributes to a step.

    The loss is a sum; the loop divides by the count of the whole step, so that packing and the number of ranks change
    nothing."""

    loss: Tensor  # scalar fp32, differentiable: the sum over the row's tokens or pairs
    log_probs: Tensor  # [responses] fp32, detached: whose samples are not finite, when something is not
    statistics: Tensor  # [Objective.num_statistics] fp64, summed over the rows of a step


class Objective(Protocol):
    """A loss on the response rows of a model's last stage."""

    num_statistics: int
    agreement: "Agreement | None"  # set while policy and reference must still be the same model

    def prepare(self, rows: list[PackedBatch], row_length: int) -> None:
        """Before the forward pass of a step. Collective."""

    def head(self, rows: Tensor, weight: Tensor, batch: PackedBatch, **options) -> Any:
        """rows [T, h], LM-head weight shard [V/tp, h], options of `kernels.linear_log_probs` -> what row_loss takes."""

    def row_loss(self, output: Any, batch: PackedBatch) -> RowLoss: ...

    def count(self, response_tokens: int, samples: int) -> int:
        """What the sum over a step is divided by, from its response tokens and its samples over all ranks."""

    def metrics(self, statistics: Tensor) -> dict[str, float]:
        """The step's own metrics from the summed statistics [num_statistics] fp64 on the host."""


class Agreement:
    """At the first step policy and reference are the same weights: their log-probs and the loss must say so.

    tolerance: nats per token, mean over an answer (rounding differs with what else is in a row). loss: what the loss
    is when they agree (ln 2 for the sigmoid loss), None where that is not one number."""

    # fp32: sums in another order. bf16: 8 bits of mantissa on logits of size 10 to 30, so single tokens differ by a few
    # hundredths; the mean over an answer by less.
    TOLERANCES = {"fp32": 1e-4, "bf16": 3e-2}

    def __init__(self, precision: str, loss: float | None, beta: float):
        self.tolerance, self.loss, self.beta = self.TOLERANCES[precision], loss, beta
        self.disagreements: list[str] = []  # one line per answer
        self.longest = 0  # tokens of the longest answer

    def compare(self, policy: Tensor, reference: Tensor, batch: PackedBatch) -> None:
        """Token log-probs of a row [T] of both models, answers as in the batch (chosen, rejected, chosen, ..)."""
        policy, reference = policy.double().cpu(), reference.double().cpu()
        for k, (first, last) in enumerate(zip(batch.response_bounds, batch.response_bounds[1:], strict=False)):
            apart = (policy[first:last] - reference[first:last]).mean().abs().item()
            self.longest = max(self.longest, last - first)
            if not apart <= self.tolerance:
                name, answer = batch.sample_ids[k // 2], ("chosen", "rejected")[k % 2]
                sums = [values[first:last].sum().item() for values in (policy, reference)]
                self.disagreements.append(
                    f"{name} ({answer}): policy {sums[0]:.4f}, reference {sums[1]:.4f} over {last - first} tokens"
                )

    def problem(self, disagreements: list[str], longest: int, loss: float) -> str | None:
        """What is wrong, from the lines of all ranks and the step's loss; None when all agree."""
        if disagreements:
            more = f" and {len(disagreements) - 3} more" if len(disagreements) > 3 else ""
            return (
                f"step 1: policy and reference start from the same weights, yet {len(disagreements)} answers have "
                f"log-probs further apart than {self.tolerance} per token: {'; '.join(disagreements[:3])}{more}. The "
                "reference does not belong to this model and these settings: let the job compute it (reference.file "
                "empty and a new output folder)"
            )
        if self.loss is not None:
            # The slope of the sigmoid loss by a reward is at most 1, and there are two.
            room = 2 * self.beta * longest * self.tolerance + 1e-6
            if not abs(loss - self.loss) <= room:
                return (
                    f"step 1: the loss is {loss:.6f}, expected {self.loss:.6f} within {room:.1e} while policy and "
                    "reference agree"
                )
        return None


NO_STATISTICS = torch.zeros(0, dtype=torch.float64)
