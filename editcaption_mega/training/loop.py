"""One optimizer step, and the loop around it. Knows no objective: it is given one (objectives/objective.py)."""

import math
import time
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple, Protocol

import torch
from megatron.core import parallel_state
from megatron.core.utils import get_model_config
from torch import Tensor

from editcaption_mega import phases, platform, signals
from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.model import Architecture
from editcaption_mega.objectives import Objective, RowLoss

from .adapter_state import begin_step
from .bad_samples import BadSamples
from .bad_steps import FILE, BadStepError, BadSteps
from .evaluations import Evaluations
from .experts import ExpertLoad
from .megatron_optimizer import begin_without_update, clipped_update, ready_gradient_norm, start_gathers
from .optimizer import TrainState
from .pipeline import run_pipeline
from .profile_window import ProfileWindow
from .row_losses import sum_over_ranks
from .speed import Speed, manual_garbage_collection
from .stragglers import Stragglers


def train_step(
    state: TrainState, objective: Objective, step: Step, bad_steps: BadSteps | None = None
) -> dict[str, float]:
    """Forward, backward and update for one step, whose micro-batches are on the device. Collective.

    -> loss, grad_norm, learning_rate, the objective's own metrics, compute_seconds (forward and backward passes, with
    what ranks send each other in them) and update_seconds (the rest). Raises BadStepError, naming the samples, for a
    loss that is not finite, or a gradient norm that is not or that `bad_steps` refuses, and the objective's ValueError
    where training must not go on; the weights are then still those of before the step."""
    began = time.monotonic()
    for chunk in state.chunks:
        chunk.zero_grad_buffer()
    state.optimizer.zero_grad()
    micro_batches = step.micro_batches
    begin_step(state.chunks, step.number)
    learning_rate = state.learning_rate
    objective.prepare(micro_batches, step.length)
    count = objective.count(step.response_tokens, step.num_samples)
    row_losses = _forward_backward(state.chunks, objective, micro_batches, step.length, count)
    sums = sum_over_ranks([row_loss for _, row_loss in row_losses], objective.num_statistics)
    computed = time.monotonic()  # the host has waited for the sums, so the device is done with all before
    loss = sums[0].item() / count
    if not math.isfinite(loss):
        mine = [name for batch, row_loss in row_losses for name in _not_finite(batch, row_loss)]
        bad = sorted({name for part in platform.gather(mine) for name in part})
        raise BadStepError(
            f"step {step.number + 1}: the loss is {loss}; samples whose log-probs are not finite: "
            f"{', '.join(bad) or 'none, each is finite and their sum is not'}. No update was made: lower "
            "optimizer.learning_rate or look at these samples",
            loss,
        )
    objective.check_step(loss, platform.gather)
    grad_norm = ready_gradient_norm(state.optimizer)
    if bad_steps is not None:
        problem = bad_steps.problem(grad_norm)
    else:
        problem = None if math.isfinite(grad_norm) else f"the gradient norm is {grad_norm}"
    if problem:
        raise BadStepError(
            f"step {step.number + 1}: {problem}. No update was made: lower optimizer.learning_rate", loss, grad_norm
        )
    clipped_update(state.optimizer, grad_norm)
    start_gathers(state.chunks)
    state.scheduler.step(increment=1)
    if bad_steps is not None:
        bad_steps.updated(grad_norm)
    numbers = {"loss": loss, "grad_norm": grad_norm, "learning_rate": learning_rate}
    times = {"compute_seconds": computed - began, "update_seconds": time.monotonic() - computed}
    return numbers | objective.metrics(sums[1:]) | times


def _forward_backward(
    chunks: list[torch.nn.Module], objective: Objective, micro_batches: list[PackedBatch], length: int, count: int
) -> list[tuple[PackedBatch, RowLoss]]:
    """Gradients of this rank's micro-batches -> each with its loss; none on ranks before the last stage. Collective."""
    # Megatron divides by the micro-batches of a rank and averages over data parallelism; the loss of a step is a mean
    # over its response tokens or pairs, so both are multiplied in again.
    scale = len(micro_batches) * parallel_state.get_data_parallel_world_size() / count
    row_losses: list[tuple[PackedBatch, RowLoss]] = []

    def scaled_loss(batch: PackedBatch, output: Any) -> tuple[Tensor, dict[str, Any]]:
        row_loss = objective.row_loss(output, batch)
        row_losses.append((batch, row_loss._replace(loss=row_loss.loss.detach().clone())))
        return row_loss.loss * scale, {}

    def forward(data: Iterator[PackedBatch], model: torch.nn.Module) -> tuple[Any, Callable[..., Any]]:
        batch = next(data)
        return model(batch, objective.head), partial(scaled_loss, batch)

    run_pipeline(forward, chunks, micro_batches, length, forward_only=False)
    return row_losses


def _not_finite(batch: PackedBatch, row_loss: RowLoss) -> list[str]:
    """Samples of a row with a log-prob that is not finite."""
    if not batch.sample_ids:  # all of them are left out
        return []
    bad = ~torch.isfinite(row_loss.log_probs)
    answers = (len(batch.response_bounds) - 1) // len(batch.sample_ids)  # of each sample
    ends = batch.response_bounds[answers::answers]
    starts = batch.response_bounds[:-1:answers]
    return [
        name for name, first, last in zip(batch.sample_ids, starts, ends, strict=True) if bad[first:last].any().item()
    ]


class Recorder(Protocol):
    """What the loop tells the job, on every rank."""

    def record(self, numbers: dict[str, Any]) -> None:
        """The numbers of one step."""

    def stopping(self) -> None:
        """The loop ends after this step, before it has done all."""

    def save(self, step: int, required: bool) -> None:
        """Save a step; it may be written later, beside the next ones. required: training cannot go on without it, so it
        is written when this returns. Collective."""

    def newest(self) -> int:
        """The step of the newest checkpoint that is whole, when none is being written; 0: none. Collective."""
        ...


@dataclass(frozen=True)
class Span:
    """Which steps a run does now, and after which it saves."""

    first: int  # steps done before; there is a checkpoint of that one unless it is 0
    last: int
    save_every: int
    stop_after: int = 0  # leave, with a checkpoint, after so many steps; 0: go on to the last


class Care(NamedTuple):
    """What is watched in the steps of a run, and looked at between them."""

    stragglers: Stragglers
    bad_steps: BadSteps
    evaluations: Evaluations | None = None
    profile: ProfileWindow | None = None
    bad_samples: BadSamples | None = None  # of the steps' reader


def run_steps(
    state: TrainState,
    objective: Objective,
    steps: Iterable[Step],
    span: Span,
    recorder: Recorder,
    expert_load: ExpertLoad | None = None,
    architecture: Architecture | None = None,
    care: Care | None = None,
) -> tuple[int, int]:
    """Run `steps` -> the number of the last one done, and the signal that ended it early (0: none). Collective.

    Saves as the span says, at its end, and when stopped. architecture: to count floating-point operations. care:
    without it a bad step ends the run, no rank is named, and nothing is evaluated."""
    finished = span.first
    adapters = None if architecture is None else get_model_config(state.chunks[0]).adapters
    speed = Speed(architecture, adapters)
    # A picture may be broken on one rank alone.
    with signals.answered(), manual_garbage_collection() as collect, closing(_arriving(steps, care)) as arriving:
        for step in arriving:
            speed.data_arrived()
            if finished > span.first:  # the first step is the end of the setup
                phases.enter(phases.STEP)
            if care is not None:
                care.stragglers.step_begins()
                if care.profile is not None:
                    care.profile.step_begins(step.number + 1)
            numbers = _careful_step(state, objective, step, care, lambda: _where_to_go_on(recorder.newest()))
            finished = step.number + 1
            if expert_load is not None:
                numbers |= expert_load.metrics()
            if care is not None:
                numbers |= care.stragglers.step_ended()
                if care.profile is not None:
                    care.profile.step_ended(finished)
            of_step, asked = speed.step_ended(step, signals.asked())
            if care is not None and care.evaluations is not None:
                with speed.evaluating():
                    numbers |= care.evaluations.after(finished)
            numbers |= _left_out(step)
            recorder.record({"step": finished, **numbers, "samples": finished * step.planned, **of_step})
            enough = care is not None and care.evaluations is not None and care.evaluations.enough()
            leave = bool(asked or enough or (span.stop_after and finished - span.first >= span.stop_after))
            if leave:
                recorder.stopping()
            required = finished == span.last or leave
            if required or finished % span.save_every == 0:
                phases.enter(phases.SAVE)
                with speed.saving():
                    recorder.save(finished, required)
            collect(finished)
            if leave and finished < span.last:
                why = f"signal {asked}" if asked else f"training.stop_after={span.stop_after}"
                if asked or not enough:
                    platform.print_rank_0(
                        f"stopped by {why} after step {finished}; the same command goes on from there"
                    )
                return finished, asked
    return finished, 0


def _arriving(steps: Iterable[Step], care: Care | None) -> Generator[Step, None, None]:
    """The steps, alike on every rank. Collective."""
    if care is None or care.bad_samples is None:
        return platform.each_together(steps)
    return care.bad_samples.agreed(steps)


def _left_out(step: Step) -> dict[str, Any]:
    return {"bad_samples": [sample.to_json() for sample in step.left_out]} if step.left_out else {}


def _careful_step(
    state: TrainState, objective: Objective, step: Step, care: Care | None, newest: Callable[[], str]
) -> dict[str, Any]:
    """`train_step`, or what is done instead: the learning rate goes on with the steps, the weights stay. Collective.

    newest: says where the same command goes on; collective."""
    bad_steps = None if care is None else care.bad_steps
    number = step.number + 1
    learning_rate = state.learning_rate
    if bad_steps is not None and number in bad_steps.left_out.steps:
        bad_steps.passed_over()
        why, known = f"left out since the run was rewound ({FILE})", {"loss": None, "grad_norm": None}
    else:
        try:
            return train_step(state, objective, step, bad_steps)
        except BadStepError as error:
            if bad_steps is None:
                raise FloatingPointError(f"{error}. {newest()}") from None
            bad_steps.take(number, error, newest)
            why, known = str(error), error.numbers
        except FloatingPointError as error:
            raise FloatingPointError(f"{error}. {newest()}") from None
        start_gathers(state.chunks)  # the wrapper expects them behind each forward pass; nothing has changed
    begin_without_update(state.optimizer)
    state.scheduler.step(increment=1)
    return {**known, "learning_rate": learning_rate, "skipped": why}


def _where_to_go_on(saved: int) -> str:
    """Where the same command goes on."""
    if not saved:
        return "This run has no checkpoint yet: the same command begins it again"
    return f"The newest checkpoint is that of step {saved}: the same command goes on from there"
