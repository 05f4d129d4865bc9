"""At the first step of DPO policy and reference are the same model: that must show, or the run stops."""

from collections.abc import Callable
from typing import Any

from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch


class Agreement:
    """Compares policy and reference while they are the same weights: by their log-probs and by the loss.

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
            difference = (policy[first:last] - reference[first:last]).mean().abs().item()
            self.longest = max(self.longest, last - first)
            if not difference <= self.tolerance:  # NaN is no agreement either
                name, answer = batch.sample_ids[k // 2], ("chosen", "rejected")[k % 2]
                sums = [values[first:last].sum().item() for values in (policy, reference)]
                self.disagreements.append(
                    f"{name} ({answer}): policy {sums[0]:.4f}, reference {sums[1]:.4f} over {last - first} tokens"
                )

    def check(self, loss: float, gather: Callable[[Any], list[Any]]) -> None:
        """Raises ValueError, alike on every rank, unless the answers of all ranks and the step's loss agree. Collective
        through `gather`."""
        parts = gather((self.disagreements, self.longest))
        lines = list(dict.fromkeys(line for part, _ in parts for line in part))  # tensor-parallel ranks say the same
        if lines:
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            raise ValueError(
                f"step 1: policy and reference start from the same weights, yet {len(lines)} answers have "
                f"log-probs further apart than {self.tolerance} per token: {'; '.join(lines[:3])}{more}. The "
                "reference does not belong to this model and these settings: let the job compute it (reference.file "
                "empty and a new output folder)"
            )
        if self.loss is not None:
            # The slope of the sigmoid loss by a reward is at most 1, and there are two.
            tolerance = 2 * self.beta * max(longest for _, longest in parts) * self.tolerance + 1e-6
            if not abs(loss - self.loss) <= tolerance:
                raise ValueError(
                    f"step 1: the loss is {loss:.6f}, expected {self.loss:.6f} within {tolerance:.1e} while policy and "
                    "reference agree"
                )
