"""The losses of rows, summed over all ranks: the same for a step and for an evaluation."""

from collections.abc import Sequence

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.objectives import RowLoss


def sum_over_ranks(row_losses: Sequence[RowLoss], num_statistics: int) -> Tensor:
    """Loss and statistics summed over the rows of all ranks -> [1 + num_statistics] fp64 on the host. Collective.

    Only the last stage has losses, once per tensor-parallel rank; everyone learns the sums."""
    sums = torch.zeros(1 + num_statistics, dtype=torch.float64, device=platform.device())
    if row_losses and parallel_state.get_tensor_model_parallel_rank() == 0:
        sums[0] = torch.stack([row_loss.loss for row_loss in row_losses]).sum()
        sums[1:] = torch.stack([row_loss.statistics.to(sums.device) for row_loss in row_losses]).sum(0)
    dist.all_reduce(sums)
    return sums.cpu()
