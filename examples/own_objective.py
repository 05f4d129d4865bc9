"""A loss of one's own in the training job.

    python examples/own_objective.py configs/sft_demo.yaml training.output=runs/focal

Here a focal loss: tokens that the model is already sure of count less. What a job does besides (packing, every layout,
checkpoints, resuming, signals, metrics) is the same for any objective."""

import sys

from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.objectives import Objective, RowLoss
from editcaption_mega.settings import JobSettings, load_settings
from editcaption_mega.training.job import train
from editcaption_mega.training.prepare import prepare
from editcaption_mega.training.session import Ending, session


class FocalObjective(Objective):
    """loss = - sum_i (1 - p_i)^gamma log p_i / number of response tokens (Lin et al. 2017, eq. 4)."""

    name = "focal"
    num_statistics = 2

    def __init__(self, gamma: float = 2.0):
        self.gamma = gamma

    @property
    def identity(self) -> dict[str, str]:
        """A run of another gamma is another run: it is not gone on with."""
        return {"focal_gamma": str(self.gamma)}

    def row_loss(self, output: Tensor, batch: PackedBatch) -> RowLoss:
        """output: log-probs of the row's response tokens [T] fp32. A sum: the loop divides by the step's `count`."""
        loss = -((1 - output.exp()) ** self.gamma * output).sum()
        log_probs = output.detach()
        sure = (log_probs.exp() > 0.5).sum()
        return RowLoss(loss, log_probs, log_probs.new_tensor([sure, len(log_probs)]).double())

    def count(self, response_tokens: int, samples: int) -> int:
        return response_tokens

    def metrics(self, statistics: Tensor) -> dict[str, float]:
        """A column of metrics.jsonl: the share of tokens that the model gives more than one half."""
        sure, tokens = statistics.tolist()
        return {"sure": sure / tokens}


def main(config: str, *overrides: str) -> Ending:
    settings = load_settings(config, overrides, JobSettings)
    with session(settings) as job:
        job.ending = train(prepare(job, FocalObjective), FocalObjective())
    return job.ending


if __name__ == "__main__":
    if not sys.argv[1:]:
        print(
            "usage: python examples/own_objective.py CONFIG [key=value ...]",
            file=sys.stderr,
        )
        sys.exit(2)
    main(*sys.argv[1:])
