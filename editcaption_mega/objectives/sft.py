"""Supervised fine-tuning: the mean negative log-likelihood of the response tokens of a step."""

from torch import Tensor

from editcaption_mega.data.batch import PackedBatch


class SFTObjective:
    """loss = - sum_i w_i log p(y_i) / sum_i w_i over all response tokens of the step (paper, section 3.3).

    One contract for every objective: `row_loss` returns (sum, count) of a row; the caller divides by the count of the
    whole step, so that packing and the number of ranks change nothing."""

    def row_loss(self, log_probs: Tensor, batch: PackedBatch) -> tuple[Tensor, float]:
        """log_probs [responses] fp32 -> sum of losses (scalar, differentiable) and the number of response tokens."""
        return -(log_probs * batch.loss_weights).sum(), float(len(batch.target_rows_host))
