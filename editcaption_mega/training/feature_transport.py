"""Tensors between pipeline chunks that are longer than Megatron's schedules expect: DeepStack features travel behind
the hidden states where the chunks before hold fewer layers than take them (`model.pipeline_split.FeatureRoute`).

The plain schedule is told the shapes that a stage receives and sends. The interleaved one has one shape for all chunks;
what it receives comes in a fixed order of chunks, so its communicator, which Megatron lets us give, knows how long each
tensor is. Both hold for tests/parity, and the order for tests/training/test_feature_transport.py.
"""

from collections.abc import Sequence
from typing import Any

from megatron.core import parallel_state
from megatron.core.pipeline_parallel.p2p_communication import P2PCommunicator
from megatron.core.pipeline_parallel.schedules import get_schedule_table
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.utils import get_model_config
from torch import Tensor, nn

from editcaption_mega.model import unwrap

Shape = Sequence[int]
SCHEDULE_GROUPS = ["tp", "cp", "pp", "embd", "pos_embd", "dp", "dp_cp", "tp_dp_cp"]  # all that the schedule uses


def transport_options(chunks: Sequence[nn.Module], num_micro_batches: int) -> dict[str, Any]:
    """What Megatron's schedule is told beyond the length of the rows; nothing where no features travel to or from this
    rank."""
    routes = [unwrap(chunk).route for chunk in chunks]
    if not any(route.received or route.sent for route in routes):
        return {}
    if len(chunks) == 1:
        (route,) = routes
        return {
            "adjust_tensor_shapes_fn": lambda received, sent: (
                [_longer(shape, route.received) for shape in received],
                [_longer(shape, route.sent) for shape in sent],
            )
        }
    inputs, gradients = received_chunks(
        num_micro_batches,
        len(chunks),
        parallel_state.get_pipeline_model_parallel_rank(),
        parallel_state.get_pipeline_model_parallel_world_size(),
    )
    return {
        "p2p_communicator": FeatureCommunicator(
            get_model_config(chunks[0]),
            [routes[chunk].received for chunk in inputs],
            [routes[chunk].sent for chunk in gradients],
        ),
        "pg_collection": ProcessGroupCollection.use_mpu_process_groups(SCHEDULE_GROUPS),
    }


def received_chunks(num_micro_batches: int, num_chunks: int, stage: int, stages: int) -> tuple[list[int], list[int]]:
    """The chunks of a stage in the order in which it receives their inputs, and the gradients of their outputs."""
    order = [chunk for _, chunk in get_schedule_table(num_micro_batches, num_chunks, stages)]
    inputs, gradients = order, [num_chunks - 1 - chunk for chunk in order]
    if stage == 0:  # from the last stage, as that one computes them: inputs of the chunk after
        inputs = [chunk + 1 for chunk in inputs if chunk + 1 < num_chunks]
    if stage == stages - 1:
        gradients = [chunk - 1 for chunk in gradients if chunk > 0]
    return inputs, gradients


class FeatureCommunicator(P2PCommunicator):  # type: ignore[misc]
    """inputs, gradients: the features behind each tensor that this rank receives, in the order in which they come."""

    def __init__(self, config: Any, inputs: Sequence[int], gradients: Sequence[int]):
        super().__init__(parallel_state.get_pipeline_model_parallel_group(), config)
        self.inputs, self.gradients = iter(inputs), iter(gradients)

    def recv_forward(self, tensor_shapes: Shape, is_first_stage: bool) -> Any:
        shape = tensor_shapes if is_first_stage else _longer(tensor_shapes, next(self.inputs))
        return super().recv_forward(shape, is_first_stage)

    def recv_backward(self, tensor_shapes: Shape, is_last_stage: bool) -> Any:
        shape = tensor_shapes if is_last_stage else _longer(tensor_shapes, next(self.gradients))
        return super().recv_backward(shape, is_last_stage)

    def send_forward_recv_forward(
        self, output_tensor: Tensor | None, recv_prev: bool, tensor_shape: Shape, overlap_p2p_comm: bool = False
    ) -> Any:
        shape = _longer(tensor_shape, next(self.inputs)) if recv_prev else tensor_shape
        return super().send_forward_recv_forward(output_tensor, recv_prev, shape, overlap_p2p_comm)

    def send_backward_recv_backward(
        self, input_tensor_grad: Tensor | None, recv_next: bool, tensor_shape: Shape, overlap_p2p_comm: bool = False
    ) -> Any:
        shape = _longer(tensor_shape, next(self.gradients)) if recv_next else tensor_shape
        return super().send_backward_recv_backward(input_tensor_grad, recv_next, shape, overlap_p2p_comm)


def _longer(shape: Shape, features: int) -> tuple[int, ...]:
    """Of hidden states [s/tp, 1, h] with features of the same size behind them."""
    length, *rest = shape
    return ((1 + features) * length, *rest)
