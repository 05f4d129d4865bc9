"""At the first step of DPO policy and reference are the same model: that must show, or the run stops."""

from collections.abc import Callable
from typing import Any, NamedTuple

from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch


class _Answer(NamedTuple):
    """What was seen of one answer. Tensor-parallel ranks see the same."""

    apart: float  # policy - reference, nats per token
    tokens: int
    words: str


class Agreement:
    """Compares policy and reference while they are the same weights: by their log-probs and by the loss.

    tolerance: nats per token, mean over an answer (rounding differs with what else is in a row). loss: what the loss
    is when they agree (ln 2 for the sigmoid loss), None where that is not one number.

    In fp32 every answer must agree. In bf16 the answers together must: products of other shapes round otherwise, and
    where two experts score alike a token goes to another one, so that single short answers may be apart. A reference of
    other weights is apart in most answers, or in their mean."""

    # fp32: sums in another order. bf16: 8 bits of mantissa on logits of size 10 to 30, so single tokens differ by a few
    # hundredths; the mean over an answer by less.
    TOLERANCES = {"fp32": 1e-4, "bf16": 3e-2}
    # bf16: shares of the answers that may be further apart than the tolerance, and than three times that.
    APART, FAR_APART = 0.25, 0.02

    def __init__(self, precision: str, loss: float | None, beta: float):
        self.tolerance, self.loss, self.beta = self.TOLERANCES[precision], loss, beta
        self.exact = precision == "fp32"
        self.answers: dict[tuple[str, str], _Answer] = {}  # by sample and answer

    def compare(self, policy: Tensor, reference: Tensor, batch: PackedBatch) -> None:
        """Token log-probs of a row [T] of both models, answers as in the batch (chosen, rejected, chosen, ..)."""
        policy, reference = policy.double().cpu(), reference.double().cpu()
        for k, (first, last) in enumerate(zip(batch.response_bounds, batch.response_bounds[1:], strict=False)):
            name, answer = batch.sample_ids[k // 2], ("chosen", "rejected")[k % 2]
            apart = (policy[first:last] - reference[first:last]).mean().item()
            sums = [values[first:last].sum().item() for values in (policy, reference)]
            words = f"{name} ({answer}): policy {sums[0]:.4f}, reference {sums[1]:.4f} over {last - first} tokens"
            self.answers[name, answer] = _Answer(apart, last - first, words)

    def check(self, loss: float, gather: Callable[[Any], list[Any]]) -> int:
        """The answers that were further apart than the tolerance, as single ones may be. Raises ValueError, alike on
        every rank, unless the answers of all ranks and the step's loss agree. Collective through `gather`."""
        answers: dict[tuple[str, str], _Answer] = {}
        for part in gather(self.answers):
            answers |= part
        apart = [answer for answer in answers.values() if not abs(answer.apart) <= self.tolerance]  # NaN is apart
        if self._disagree(list(answers.values()), apart):
            lines = [answer.words for answer in sorted(apart, key=lambda answer: -abs(answer.apart))]
            more = f" and {len(lines) - 3} more" if len(lines) > 3 else ""
            raise ValueError(
                f"step 1: policy and reference start from the same weights, yet {len(lines)} answers have "
                f"log-probs further apart than {self.tolerance} per token: {'; '.join(lines[:3])}{more}. The "
                "reference does not belong to this model and these settings: let the job compute it (reference.file "
                "empty and a new output folder)"
            )
        if self.loss is not None:
            # The slope of the sigmoid loss by a reward is at most 1, and there are two.
            longest = max((answer.tokens for answer in answers.values()), default=0)
            tolerance = 2 * self.beta * longest * self.tolerance + 1e-6
            if not abs(loss - self.loss) <= tolerance:
                raise ValueError(
                    f"step 1: the loss is {loss:.6f}, expected {self.loss:.6f} within {tolerance:.1e} while policy and "
                    "reference agree"
                )
        return len(apart)

    def _disagree(self, answers: list[_Answer], apart: list[_Answer]) -> bool:
        if self.exact or not apart:
            return bool(apart)
        far = [answer for answer in apart if not abs(answer.apart) <= 3 * self.tolerance]
        tokens = sum(answer.tokens for answer in answers)
        mean = sum(answer.apart * answer.tokens for answer in answers) / tokens
        limits = (self.APART * len(answers), self.FAR_APART * len(answers), self.tolerance)
        return any(not value <= limit for value, limit in zip((len(apart), len(far), abs(mean)), limits, strict=True))
