"""The queue of weight gradients: what is made when, and who learns that a weight's gradient is whole."""

import copy

import pytest
import torch

from editcaption_mega.model.parallel.delayed_gradients import DelayedGradients, GradientRule, held_back


class Noted:
    """A queue, and what happens in it."""

    def __init__(self) -> None:
        self.queue, self.happened = DelayedGradients(2), []

    def backward(self, micro_batch: int, keep: int) -> list[str]:
        """One backward pass with two products -> what is made behind it."""
        for layer in ("b", "a"):
            self.queue.add(
                lambda name=f"{layer}{micro_batch}": self._begin(name),
                lambda name=f"{layer}{micro_batch}": self.happened.append(f"{name} whole"),
            )
        self.queue.end_backward(keep)
        happened, self.happened = self.happened, []
        return happened

    def _begin(self, name):
        self.happened.append(f"{name} begun")
        return lambda: self.happened.append(f"{name} made")


def test_a_product_begins_before_the_one_before_is_made_and_counts_when_it_is():
    assert Noted().backward(0, keep=0) == ["b0 begun", "a0 begun", "b0 made", "b0 whole", "a0 made", "a0 whole"]


def test_what_waits_is_made_in_order_and_only_the_newest_is_whole():
    noted = Noted()
    assert noted.backward(0, keep=1) == []
    assert noted.backward(1, keep=1) == ["b0 begun", "a0 begun", "b0 made", "a0 made"]
    last = noted.backward(2, keep=0)
    assert last[:4] == ["b1 begun", "a1 begun", "b1 made", "a1 made"]
    assert last[4:] == ["b2 begun", "a2 begun", "b2 made", "b2 whole", "a2 made", "a2 whole"]


def test_a_copied_config_has_the_same_queue():
    queue = DelayedGradients(1)
    assert copy.deepcopy({"queue": queue})["queue"] is queue


def test_a_weight_without_a_buffer_gets_its_gradient_at_once():
    weight = torch.nn.Parameter(torch.ones(2))
    rule = GradientRule(delayed=DelayedGradients(0))
    assert not rule.delays(weight)
    weight.main_grad = torch.zeros(2)
    assert rule.delays(weight) and not GradientRule().delays(weight)


@pytest.mark.parametrize(
    ("stage", "most", "kept"),
    [
        (3, 0, [0, 0, 0, 0, 0, 0]),
        (3, 3, [3, 3, 3, 3, 3, 0]),  # the last stage has no end of its own
        (2, 2, [2, 2, 2, 2, 2, 0]),
        (1, 3, [3, 3, 3, 3, 2, 0]),
        (1, 9, [9, 9, 9, 9, 8, 0]),
    ],
)
def test_fewer_wait_with_each_backward_pass_behind_the_last_forward_pass(stage, most, kept):
    """Four stages, six micro-batches."""
    assert [held_back(stage, 4, 6, done, most) for done in range(1, 7)] == kept
