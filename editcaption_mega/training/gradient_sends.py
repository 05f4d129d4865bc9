"""What a pipeline stage does while the gradient of its input is on its way: the weight gradients that wait for it."""

from typing import Any

from megatron.core import parallel_state
from megatron.core.model_parallel_config import ModelParallelConfig
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from torch import Tensor

from editcaption_mega.model.parallel.delayed_gradients import DelayedGradients, held_back


class GradientSends(P2PCommunicator):  # type: ignore[misc]
    """The communicator of a stage that makes its weight gradients later, for one step of the plain schedule.

    A stage behind the first sends the gradient of its input once in each backward pass."""

    def __init__(self, config: ModelParallelConfig, gradients: DelayedGradients, num_micro_batches: int):
        super().__init__(parallel_state.get_pipeline_model_parallel_group(), config)
        self.gradients, self.num_micro_batches, self.done = gradients, num_micro_batches, 0

    def _communicate(self, *, tensor_send_prev: Tensor | None, wait_on_reqs: bool = True, **others: Any) -> Any:
        before, behind, transfers = super()._communicate(
            tensor_send_prev=tensor_send_prev, wait_on_reqs=False, **others
        )
        if tensor_send_prev is not None:
            self.done += 1
            sizes = (self.current_stage, self.total_stages, self.num_micro_batches)
            self.gradients.end_backward(held_back(*sizes, self.done, self.gradients.most))
        for transfer in transfers.values():
            transfer.wait()
        return before, behind, None
