"""The loop around the steps: what it records, when it saves, and how it leaves. With a real small model on one rank."""

import copy
import math

import pytest
import torch

from editcaption_mega import platform, signals
from editcaption_mega.data.batching.loader import Step
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import OptimizerSettings
from editcaption_mega.training.loop import Span, run_steps, train_step
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.train_state import train_state

ROW = 110


@pytest.fixture(scope="module")
def state(tmp_path_factory):
    folder = tmp_path_factory.mktemp("dense")
    tiny.hf_model(experts=False, layers=2).save_pretrained(folder)
    yield train_state(folder, OptimizerSettings())[0]
    platform.destroy()


def steps(first, last):
    row = tiny.row(tiny.samples(2), ROW)
    for number in range(first, last):
        yield Step(number, [row], ROW, len(row.targets), 2)


class Recorder:
    """Keeps what the loop says, in order; saving fails at the steps in `full`."""

    def __init__(self, full=()):
        self.full, self.events, self.numbers, self.saved = full, [], [], 0

    def record(self, numbers):
        self.events.append(numbers["step"])
        self.numbers.append(numbers)

    def stopping(self):
        self.events.append("stopping")

    def save(self, step, required):
        self.events.append(("save", step, required))
        self.saved = self.saved if step in self.full else step

    def newest(self):
        return self.saved


def run_broken_steps(rank):
    if rank == 1:
        own = (_raise(ValueError("sample x: its picture is broken")) for _ in range(1))
    else:
        own = steps(0, 1)
    run_steps(None, None, own, Span(0, 1, 1), None)


def _raise(error):
    raise error


def test_a_picture_that_is_broken_on_one_rank_ends_all(tmp_path):
    """The others would wait for it in the step's collectives."""
    errors = on_ranks(run_broken_steps, tmp_path)
    assert [str(error).partition(" (rank 1 on")[0] for error in errors] == ["sample x: its picture is broken"] * 2


def test_it_saves_at_intervals_and_at_the_end(state):
    recorder = Recorder()
    assert run_steps(state, SFTObjective(), steps(0, 5), Span(0, 5, save_every=2), recorder) == (5, 0)
    assert recorder.events == [1, 2, ("save", 2, False), 3, 4, ("save", 4, False), 5, ("save", 5, True)]
    first = recorder.numbers[0]
    assert {"step", "loss", "grad_norm", "learning_rate", "tokens", "samples", "seconds"} <= first.keys()
    assert first["tokens"] == sum(sample.num_tokens for sample in tiny.samples(2)) and first["samples"] == 2
    assert [numbers["samples"] for numbers in recorder.numbers] == [2, 4, 6, 8, 10]


def test_it_leaves_after_so_many_steps_of_this_start(state, capsys):
    recorder = Recorder()
    span = Span(7, 20, save_every=100, stop_after=2)
    assert run_steps(state, SFTObjective(), steps(7, 20), span, recorder) == (9, 0)
    assert recorder.events == [8, 9, "stopping", ("save", 9, True)]
    assert "stopped by training.stop_after=2 after step 9; the same command goes on" in capsys.readouterr().out


def test_a_signal_is_answered_after_the_step(state, capsys):
    recorder = Recorder()

    def asking():
        for step in steps(0, 9):
            if step.number == 1:
                signals.ask(10)
            yield step

    with signals.listening():
        assert run_steps(state, SFTObjective(), asking(), Span(0, 9, save_every=100), recorder) == (2, 10)
    assert recorder.events == [1, 2, "stopping", ("save", 2, True)]
    assert "stopped by signal 10 after step 2" in capsys.readouterr().out


def test_the_newest_checkpoint_is_one_that_was_written(state):
    """Step 4's could not be: what diverges at step 5 goes on from step 2."""
    broken = copy.deepcopy(state.chunks[0].state_dict())

    def breaking():
        for step in steps(0, 9):
            if step.number == 4:
                with torch.no_grad():
                    next(state.chunks[0].parameters()).fill_(math.nan)
            yield step

    recorder = Recorder(full=(4,))
    with pytest.raises(
        FloatingPointError, match=r"step 5: the loss is nan; samples .*: s0, s1\. No update.*that of step 2"
    ):
        run_steps(state, SFTObjective(), breaking(), Span(0, 9, save_every=2), recorder)
    assert recorder.events[-2:] == [4, ("save", 4, False)]
    state.chunks[0].load_state_dict(broken)


def test_an_objective_that_refuses_a_step_leaves_the_weights(state):
    class Refusing(SFTObjective):
        def check_step(self, loss, gather):
            raise ValueError(f"not with {len(gather(loss))} ranks")

    before = [parameter.detach().clone() for parameter in state.chunks[0].parameters()]
    with pytest.raises(ValueError, match="not with 1 ranks"):
        train_step(state, Refusing(), next(steps(0, 1)))
    assert all(map(torch.equal, before, state.chunks[0].parameters()))


def test_gradients_that_are_not_finite_leave_the_weights(state):
    """The loss is finite: only the norm, which is known before the update, tells."""
    last = [parameter for name, parameter in state.chunks[0].named_parameters() if "final_layernorm" in name]
    assert len(last) == 1
    before = [parameter.detach().clone() for parameter in state.chunks[0].parameters()]
    broken = last[0].register_hook(lambda gradient: gradient * math.inf)
    with pytest.raises(FloatingPointError, match=r"step 1: the gradient norm is (inf|nan)\. No update was made"):
        train_step(state, SFTObjective(), next(steps(0, 1)))
    broken.remove()
    assert all(map(torch.equal, before, state.chunks[0].parameters()))
