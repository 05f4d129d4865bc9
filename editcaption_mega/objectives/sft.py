"""Supervised fine-tuning: the mean negative log-likelihood of the response tokens of a step."""

from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.kernels import linear_log_probs

from .objective import NO_STATISTICS, RowLoss


class SFTObjective:
    """loss = - sum_i w_i log p(y_i) / sum_i w_i over all response tokens of the step (paper, section 3.3)."""

    num_statistics = 0
    agreement = None

    def prepare(self, rows: list[PackedBatch], row_length: int) -> None:
        """Nothing is needed before a step."""

    def head(self, rows: Tensor, weight: Tensor, batch: PackedBatch, **options) -> Tensor:
        """-> log-probs of the response tokens [T] fp32."""
        return linear_log_probs(rows, weight, batch.targets, **options)

    def row_loss(self, output: Tensor, batch: PackedBatch) -> RowLoss:
        """output: log_probs [responses] fp32."""
        return RowLoss(-(output * batch.loss_weights).sum(), output.detach(), NO_STATISTICS)

    def count(self, response_tokens: int, samples: int) -> int:
        return response_tokens

    def metrics(self, statistics: Tensor) -> dict[str, float]:
        return {}
