"""One optimizer step, and the loop around it. Knows no objective: it is given one."""

import math
import signal
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.data.batch import PackedBatch
from editcaption_mega.data.stream import Step

from .optimizer import Trainer


class StopRequest:
    """Remembers SIGTERM, SIGINT and SIGUSR1 (what Slurm sends before a time limit) until the step is over."""

    def __init__(self):
        self.signal: int | None = None
        self._previous = {
            number: signal.signal(number, self._remember) for number in (signal.SIGTERM, signal.SIGINT, signal.SIGUSR1)
        }

    def _remember(self, number, frame) -> None:
        self.signal = number

    def restore(self) -> None:
        for number, handler in self._previous.items():
            signal.signal(number, handler)


def train_step(trainer: Trainer, objective, step: Step) -> dict[str, float]:
    """Forward, backward and update for one step's rows. Collective. -> loss, grad_norm, learning_rate, stop."""
    chunks, optimizer = trainer.chunks, trainer.optimizer
    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    device = platform.device()
    rows = [row.to(device) for row in step.rows]
    learning_rate = max(group["lr"] for group in optimizer.param_groups)
    # Megatron divides by the micro-batches of a rank and averages over data parallelism; the loss of a step is the
    # mean over its response tokens, so both are multiplied in again.
    scale = len(rows) * parallel_state.get_data_parallel_world_size() / step.response_tokens
    losses: list[Tensor] = []

    def row_loss(batch: PackedBatch, log_probs: Tensor) -> tuple[Tensor, dict]:
        loss, _ = objective.row_loss(log_probs, batch)
        losses.append(loss.detach().clone())
        return loss * scale, {}

    def forward(data: Iterator[PackedBatch], model) -> tuple[Tensor, Callable]:
        batch = next(data)
        return model(batch), partial(row_loss, batch)

    run_pipeline(forward, chunks, rows, step.row_length, forward_only=False)
    # Only the last stage has losses, once per tensor-parallel rank; everyone learns the sum.
    total = torch.zeros(1, dtype=torch.float64, device="cpu" if device.type == "cpu" else device)
    if losses and parallel_state.get_tensor_model_parallel_rank() == 0:
        total += torch.stack(losses).sum()
    dist.all_reduce(total)
    loss = total.item() / step.response_tokens
    if not math.isfinite(loss):
        bad = [row.sample_ids for row, value in zip(rows, losses, strict=False) if not torch.isfinite(value)]
        raise FloatingPointError(
            f"step {step.number + 1}: the loss is {loss}; samples of the rows that are not finite on rank "
            f"{platform.rank()}: {bad or 'none here'}. Lower optimizer.learning_rate or look at these samples"
        )
    updated, grad_norm, _ = optimizer.step()
    if not updated or not math.isfinite(grad_norm):
        raise FloatingPointError(
            f"step {step.number + 1}: the gradient norm is {grad_norm}, so no update was made. The last checkpoint is "
            "intact: lower optimizer.learning_rate and resume"
        )
    trainer.scheduler.step(increment=1)
    return {"loss": loss, "grad_norm": float(grad_norm), "learning_rate": float(learning_rate)}


def run_pipeline(forward, chunks: list, rows: list[PackedBatch], row_length: int, *, forward_only: bool) -> list:
    """Megatron's schedule over one step's rows; every chunk of an interleaved stage sees the rows in order."""
    iterators = [iter(rows) for _ in chunks]
    return get_forward_backward_func()(
        forward_step_func=forward,
        data_iterator=iterators if len(chunks) > 1 else iterators[0],
        model=chunks if len(chunks) > 1 else chunks[0],
        num_microbatches=len(rows),
        seq_length=row_length,
        micro_batch_size=1,
        forward_only=forward_only,
    )


def train(
    trainer: Trainer,
    objective,
    steps: Iterable[Step],
    *,
    global_batch_size: int,
    on_step: Callable[[dict], None],
    save: Callable[[int], None],
    save_every: int,
    last_step: int,
    stop_after: int = 0,
    expert_load=None,
) -> int:
    """Run `steps`; returns the number of the last one done. Saves every `save_every`, at the end, and when stopped."""
    stop, done, finished = StopRequest(), 0, 0
    try:
        for step in steps:
            began = time.monotonic()
            numbers = train_step(trainer, objective, step)
            finished, done = step.number + 1, done + 1
            if expert_load is not None:
                numbers |= expert_load.metrics()
            # One small collective per step: tokens of all ranks, and whether any rank was asked to stop.
            shared = torch.tensor([sum(row.num_tokens for row in step.rows), stop.signal or 0], dtype=torch.float64)
            tokens, asked = _sum_and_max(shared)
            on_step(
                {
                    "step": finished,
                    **numbers,
                    "tokens": tokens,
                    "samples": finished * global_batch_size,
                    "seconds": time.monotonic() - began,
                }
            )
            leave = asked or (stop_after and done >= stop_after)
            if finished % save_every == 0 or finished == last_step or leave:
                save(finished)
            if leave:
                why = f"signal {asked}" if asked else f"training.stop_after={stop_after}"
                platform.print_once(f"stopped by {why} after step {finished}; the same command goes on from there")
                break
    finally:
        stop.restore()
    return finished


def _sum_and_max(values: Tensor) -> tuple[int, int]:
    """[tokens, signal] of each rank -> tokens over data-parallel ranks, the largest signal anywhere."""
    copies = platform.world_size() // parallel_state.get_data_parallel_world_size()
    values = values.to(platform.device())
    signal_number = values[1:].clone()
    dist.all_reduce(values)
    dist.all_reduce(signal_number, op=dist.ReduceOp.MAX)
    return round(values[0].item() / copies), int(signal_number.item())
