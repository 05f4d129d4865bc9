"""Evaluations between steps leave training what it is, bit for bit. With a real small mixture of experts."""

import random

import numpy as np
import pytest
import torch

from editcaption_mega.data.batching.loader import Step
from editcaption_mega.model import unwrap
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import BadStepSettings, OptimizerSettings
from editcaption_mega.training.bad_steps import BadSteps
from editcaption_mega.training.evaluations import Evaluations
from editcaption_mega.training.experts import ExpertLoad
from editcaption_mega.training.loop import Care, Span, run_steps
from editcaption_mega.training.megatron_optimizer import finish_gathers
from editcaption_mega.training.stragglers import Stragglers
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.train_state import train_state

ROW, STEPS = 110, 5
TIMES = ("seconds", "per_second", "tflops", "gib")  # what ends so is another number each time


class Recorder:
    def __init__(self):
        self.numbers = []

    def record(self, numbers):
        self.numbers.append(numbers)

    def save(self, step, required):
        pass


def steps(rank):
    for number in range(STEPS):
        row = tiny.row(tiny.samples(2, seed=10 * number + rank), ROW)
        yield Step(number, [row], ROW, 2 * len(row.targets), 4)


def trained(rank, folder, every):
    """-> the numbers of the steps, what the evaluations saw, the weights, and the generators' next numbers."""
    state, _ = train_state(folder, OptimizerSettings())
    seen = []

    def look(step):
        torch.manual_seed(step)
        random.seed(step)
        torch.rand(3)
        row = tiny.row(tiny.samples(3, seed=99), ROW)
        losses = [chunk(row, "log_probs").sum().item() for chunk in state.chunks]
        modes = {chunk.training for chunk in state.chunks} | {m.training for m in unwrap(state.chunks[0]).modules()}
        seen.append((step, modes, torch.is_grad_enabled()))
        return {"held_out/loss": -losses[0], "held_out/step": step}

    evaluations = Evaluations(every, STEPS, state.chunks, [look])
    recorder, settings = Recorder(), BadStepSettings()
    care = Care(Stragglers(0.0, print), BadSteps.of_run(settings, folder / "none", 0, 0), evaluations)
    run_steps(
        state, SFTObjective(), steps(rank), Span(0, STEPS, 100), recorder, ExpertLoad(state.chunks, 8, 8), care=care
    )
    finish_gathers(state.optimizer)
    weights = [p.detach().numpy().copy() for chunk in state.chunks for p in chunk.parameters()]
    drawn = (torch.rand(2).tolist(), random.random())
    training = {chunk.training for chunk in state.chunks}
    return recorder.numbers, seen, weights, drawn, training


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    folder = tmp_path_factory.mktemp("experts")
    tiny.hf_model(experts=True).save_pretrained(folder)
    return {every: on_ranks(trained, folder, folder, every) for every in (0, 2)}


def test_training_is_bitwise_what_it_is_without(runs):
    for (plain, _, weights, drawn, _), (looked, _, other, drawn_too, training) in zip(runs[0], runs[2], strict=True):
        assert all(map(np.array_equal, weights, other)) and weights
        assert drawn == drawn_too and training == {True}
        for numbers, same in zip(plain, looked, strict=True):
            names = [name for name in numbers if not name.endswith(TIMES)]
            assert {"loss", "grad_norm", "expert_load_mean", "experts_without_tokens"} <= set(names)
            assert {name: numbers[name] for name in names} == {name: same[name] for name in names}


def test_they_come_at_intervals_and_after_the_last_step(runs):
    for numbers, seen, *_ in runs[2]:
        assert seen == [(step, {False}, False) for step in (2, 4, 5)]
        assert [of_step["step"] for of_step in numbers if "held_out/loss" in of_step] == [2, 4, 5]
        for of_step in numbers:
            assert ("evaluation_seconds" in of_step) == ("held_out/loss" in of_step)
    assert all(not seen and "evaluation_seconds" not in numbers[-1] for numbers, seen, *_ in runs[0])


def test_both_ranks_see_the_same_weights(runs):
    first, second = ([of_step.get("held_out/loss") for of_step in numbers] for numbers, *_ in runs[2])
    assert first == second and len(set(first)) == 4


def test_without_anything_to_look_at_none_is_due():
    assert not Evaluations(2, 4, [], []).is_due(2) and not Evaluations(0, 4, [], [dict]).is_due(4)
