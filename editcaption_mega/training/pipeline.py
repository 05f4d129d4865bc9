"""Megatron's pipeline schedule over one step's micro-batches, forward and backward or forward alone."""

from collections.abc import Callable, Iterator
from typing import Any

import torch
from megatron.core.pipeline_parallel import get_forward_backward_func
from megatron.core.process_groups_config import ProcessGroupCollection
from megatron.core.utils import get_model_config

from editcaption_mega.data.batching.batch import PackedBatch

from .feature_transport import SCHEDULE_GROUPS, transport_options
from .gradient_sends import GradientSends


def _gradient_options(chunks: list[torch.nn.Module], num_micro_batches: int) -> dict[str, Any]:
    """Of a stage that makes weight gradients later."""
    config = get_model_config(chunks[0])
    if config.delayed_gradients is None:
        return {}
    return {
        "p2p_communicator": GradientSends(config, config.delayed_gradients, num_micro_batches),
        "pg_collection": ProcessGroupCollection.use_mpu_process_groups(SCHEDULE_GROUPS),
    }


def run_pipeline(
    forward: Callable[..., Any],
    chunks: list[torch.nn.Module],
    micro_batches: list[PackedBatch],
    length: int,
    *,
    forward_only: bool,
) -> list[Any]:
    """Megatron's schedule over one step's micro-batches of `length` tokens each; every chunk of an interleaved stage
    sees them in order."""
    iterators = [iter(micro_batches) for _ in chunks]
    outputs: list[Any] = get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=chunks if len(chunks) > 1 else chunks[0],
        num_microbatches=len(micro_batches),
        seq_length=length,
        micro_batch_size=1,
        forward_only=forward_only,
        **transport_options(chunks, len(micro_batches)),
        **({} if forward_only else _gradient_options(chunks, len(micro_batches))),
    )
    return outputs


def head_outputs(
    chunks: list[torch.nn.Module], micro_batches: list[PackedBatch], length: int, head: Any = "log_probs"
) -> list[Any]:
    """What the last stage's head (`Objective.head`) makes of each micro-batch, without gradients; [] before that stage.

    Collective, as a training step's forward pass is."""
    outputs: list[Any] = []

    def forward(data: Iterator[PackedBatch], model: torch.nn.Module) -> tuple[Any, Callable[..., Any]]:
        batch = next(data)

        def collect(output: Any) -> tuple[torch.Tensor, dict[str, Any]]:
            outputs.append(output)
            return torch.zeros((), device=batch.input_ids.device), {}  # Megatron divides what takes a loss's place

        return model(batch, head), collect

    with torch.no_grad():
        run_pipeline(forward, chunks, micro_batches, length, forward_only=True)
    return outputs
