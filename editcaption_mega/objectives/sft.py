"""Supervised fine-tuning: the mean negative log-likelihood of the response tokens of a step."""

from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch

from .objective import NO_STATISTICS, Objective, RowLoss


class SFTObjective(Objective):
    """loss = - sum_i w_i log p(y_i) / sum_i w_i over all response tokens of the step (paper, section 3.3)."""

    name = "sft"

    def row_loss(self, output: Tensor, batch: PackedBatch) -> RowLoss:
        """output: log_probs [responses] fp32."""
        return RowLoss(-(output * batch.loss_weights).sum(), output.detach(), NO_STATISTICS)

    def count(self, response_tokens: int, samples: int) -> int:
        return response_tokens
