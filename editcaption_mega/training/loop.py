"""One optimizer step, and the loop around it. Knows no objective: it is given one (objectives/objective.py)."""

import math
import time
from collections.abc import Callable, Iterable, Iterator
from functools import partial
from typing import Any

import torch
import torch.distributed as dist
from megatron.core import parallel_state
from megatron.core.pipeline_parallel import get_forward_backward_func
from torch import Tensor

from editcaption_mega import platform, signals
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.objectives import Objective, RowLoss

from .optimizer import Trainer


class Stopped(Exception):
    """A signal ended the job before its first step, when there is nothing to save."""

    def __init__(self, step: int, number: int, when: str):
        super().__init__(f"stopped by signal {number} {when}; the same command goes on from there")
        self.step, self.signal = step, number


def stop_if_asked(step: int, when: str) -> None:
    """Raises Stopped on every rank when any of them was asked to stop. Collective."""
    number = max(platform.gather(signals.asked()))
    if number:
        raise Stopped(step, number, when)


def train_step(trainer: Trainer, objective: Objective, step: Step) -> dict[str, float]:
    """Forward, backward and update for one step's rows. Collective.

    -> loss, grad_norm, learning_rate and the objective's own metrics. Raises FloatingPointError, naming the samples,
    for a loss that is not finite, and ValueError when policy and reference disagree where they must not; the weights
    are then still those of before the step."""
    chunks, optimizer = trainer.chunks, trainer.optimizer
    for chunk in chunks:
        chunk.zero_grad_buffer()
    optimizer.zero_grad()
    device = platform.device()
    rows = [row.to(device) for row in step.rows]
    learning_rate = max(group["lr"] for group in optimizer.param_groups)
    objective.prepare(rows, step.row_length)
    # Megatron divides by the micro-batches of a rank and averages over data parallelism; the loss of a step is a mean
    # over its response tokens or pairs, so both are multiplied in again.
    count = objective.count(step.response_tokens, step.num_samples)
    scale = len(rows) * parallel_state.get_data_parallel_world_size() / count
    done: list[tuple[PackedBatch, RowLoss]] = []

    def row_loss(batch: PackedBatch, output) -> tuple[Tensor, dict]:
        found = objective.row_loss(output, batch)
        done.append((batch, found._replace(loss=found.loss.detach().clone())))
        return found.loss * scale, {}

    def forward(data: Iterator[PackedBatch], model) -> tuple[Any, Callable]:
        batch = next(data)
        return model(batch, objective.head), partial(row_loss, batch)

    run_pipeline(forward, chunks, rows, step.row_length, forward_only=False)
    # Only the last stage has losses, once per tensor-parallel rank; everyone learns the sums.
    totals = torch.zeros(1 + objective.num_statistics, dtype=torch.float64, device=device)
    if done and parallel_state.get_tensor_model_parallel_rank() == 0:
        totals[0] = torch.stack([found.loss for _, found in done]).sum()
        totals[1:] = torch.stack([found.statistics.to(device) for _, found in done]).sum(0)
    dist.all_reduce(totals)
    totals = totals.cpu()
    loss = totals[0].item() / count
    if not math.isfinite(loss):
        here = [name for item in done for name in _not_finite(*item)]
        bad = sorted({name for part in platform.gather(here) for name in part})
        raise FloatingPointError(
            f"step {step.number + 1}: the loss is {loss}; samples whose log-probs are not finite: "
            f"{', '.join(bad) or 'none, each is finite and their sum is not'}. No update was made: lower "
            "optimizer.learning_rate or look at these samples"
        )
    if objective.agreement is not None:
        _check_agreement(objective, loss)
    updated, grad_norm, _ = optimizer.step()
    if not updated or not math.isfinite(grad_norm):
        raise FloatingPointError(
            f"step {step.number + 1}: the gradient norm is {grad_norm}. No update was made: lower "
            "optimizer.learning_rate"
        )
    trainer.scheduler.step(increment=1)
    numbers = {"loss": loss, "grad_norm": float(grad_norm), "learning_rate": float(learning_rate)}
    return numbers | objective.metrics(totals[1:])


def _not_finite(batch: PackedBatch, found: RowLoss) -> list[str]:
    """Samples of a row with a log-prob that is not finite."""
    bad = ~torch.isfinite(found.log_probs)
    answers = (len(batch.response_bounds) - 1) // len(batch.sample_ids)  # of each sample
    ends = batch.response_bounds[answers::answers]
    starts = batch.response_bounds[:-1:answers]
    return [
        name for name, first, last in zip(batch.sample_ids, starts, ends, strict=True) if bad[first:last].any().item()
    ]


def _check_agreement(objective: Objective, loss: float) -> None:
    """Every rank raises the same ValueError when policy and reference are not the same model at the first step."""
    agreement, objective.agreement = objective.agreement, None
    parts = platform.gather((agreement.disagreements, agreement.longest))
    lines = list(dict.fromkeys(line for part, _ in parts for line in part))  # tensor-parallel ranks say the same
    problem = agreement.problem(lines, max(longest for _, longest in parts), loss)
    if problem:
        raise ValueError(problem)


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
    objective: Objective,
    steps: Iterable[Step],
    *,
    on_step: Callable[[dict], None],
    on_stop: Callable[[], None],
    save: Callable[[int, bool], bool],
    save_every: int,
    saved: int,
    last_step: int,
    stop_after: int = 0,
    expert_load=None,
) -> tuple[int, int]:
    """Run `steps` -> the number of the last one done, and the signal that ended it early (0: none).

    Saves every `save_every`, at the end, and when stopped. save(step, required): whether training cannot go on without
    this checkpoint -> whether it was written. saved: the step of the newest checkpoint, 0 for none."""
    done, finished = 0, saved
    with signals.answered():
        for step in platform.each_together(steps):  # a picture may be broken on one rank alone
            began = time.monotonic()
            try:
                numbers = train_step(trainer, objective, step)
            except FloatingPointError as error:
                raise FloatingPointError(f"{error}. {_newest(saved)}") from None
            finished, done = step.number + 1, done + 1
            if expert_load is not None:
                numbers |= expert_load.metrics()
            # One small collective per step: tokens of all ranks, and whether any rank was asked to stop.
            shared = torch.tensor([sum(row.num_tokens for row in step.rows), signals.asked()], dtype=torch.float64)
            tokens, asked = _sum_and_max(shared)
            on_step(
                {
                    "step": finished,
                    **numbers,
                    "tokens": tokens,
                    "samples": finished * step.num_samples,
                    "seconds": time.monotonic() - began,
                }
            )
            leave = asked or (stop_after and done >= stop_after)
            if leave:
                on_stop()
            required = bool(finished == last_step or leave)
            if (required or finished % save_every == 0) and save(finished, required):
                saved = finished
            if leave and finished < last_step:
                why = f"signal {asked}" if asked else f"training.stop_after={stop_after}"
                platform.print_once(f"stopped by {why} after step {finished}; the same command goes on from there")
                return finished, asked
    return finished, 0


def _newest(saved: int) -> str:
    """Where the same command goes on."""
    if not saved:
        return "This run has no checkpoint yet: the same command begins it again"
    return f"The newest checkpoint is that of step {saved}: the same command goes on from there"


def _sum_and_max(values: Tensor) -> tuple[int, int]:
    """[tokens, signal] of each rank -> tokens over data-parallel ranks, the largest signal anywhere."""
    copies = platform.world_size() // parallel_state.get_data_parallel_world_size()
    values = values.to(platform.device())
    signal_number = values[1:].clone()
    dist.all_reduce(values)
    dist.all_reduce(signal_number, op=dist.ReduceOp.MAX)
    return round(values[0].item() / copies), int(signal_number.item())
