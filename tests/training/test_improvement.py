"""What a run knows of its best evaluation and checkpoint, through saves that fail and starts that go on."""

import json

import pytest

from editcaption_mega.objectives import DPOObjective, SFTObjective
from editcaption_mega.settings import SettingsError
from editcaption_mega.training.improvement import Improvement, Score, check_metric


def improvement(metric="held_out/loss", better="lower", patience=2, data="d", keeps_best=True):
    return Improvement(metric, better, patience, data, keeps_best=keeps_best)


def goes_on(before, has_checkpoint=lambda step: True, step=0, **options):
    """A start that reads what a checkpoint said, as JSON keeps it -> it, and what it says."""
    after = improvement(**options)
    return after, after.restore(json.loads(json.dumps(before.state(step))), has_checkpoint)


def test_it_waits_for_better_values_and_begins_again_with_each():
    it = improvement()
    taken = [it.take(step, value) for step, value in enumerate([3.0, 2.0, 2.0, 1.9], 1)]
    assert taken == [True, True, False, True] and not it.exhausted and it.ending() == ""
    assert not it.take(5, 2.5) and not it.exhausted
    assert not it.take(6, None) and it.exhausted, "what is not finite is no better"
    assert "no better held_out/loss since step 4 (1.9000), in 2 evaluations" in it.ending()
    assert "raise it above 2, or set it to 0" in it.ending()


def test_higher_may_be_better_and_without_patience_it_waits_for_ever():
    it = improvement("held_out/reward_accuracy", "higher", patience=0)
    assert [it.take(step, value) for step, value in enumerate([0.5, 0.4, 0.6, 0.6], 1)] == [True, False, True, False]
    assert all(not it.take(step, 0.1) for step in range(9)) and not it.exhausted


def test_it_goes_on_where_the_checkpoint_was():
    before = improvement()
    before.take(1, 2.0), before.take(2, 3.0)
    after, lines = goes_on(before)
    assert lines == [] and after.best == Score(1, 2.0) and after.waited == 1
    after.take(3, 2.5)
    assert after.exhausted


def test_the_best_checkpoint_is_one_that_was_written():
    it = improvement()
    it.take(10, 3.0)
    assert it.state(10)["checkpoint"] == {"step": 10, "value": 3.0}
    it.saved(newest=10)
    it.take(20, 2.0)
    assert it.state(20)["checkpoint"] == {"step": 20, "value": 2.0}, "what it says holds if it is written"
    it.saved(newest=10)  # it was not
    it.take(30, 2.5)
    assert it.state(30)["checkpoint"] == {"step": 30, "value": 2.5}
    it.saved(newest=30)
    assert it.state(35)["checkpoint"] == {"step": 30, "value": 2.5}, "step 35 was not evaluated"
    assert it.best_checkpoint == {"metric": "held_out/loss", "step": 30, "value": 2.5}


def test_worse_ones_take_no_place():
    it = improvement()
    for step, value in ((10, 2.0), (20, 3.0)):
        it.take(step, value)
        state = it.state(step)
        it.saved(step)
    assert state["checkpoint"] == {"step": 10, "value": 2.0}
    assert improvement(keeps_best=False).state(0)["checkpoint"] is None


def test_other_pairs_or_another_metric_begin_anew():
    before = improvement()
    before.take(1, 2.0)
    for change, words in (
        ({"data": "other"}, "were of held_out/loss of other pairs"),
        ({"metric": "held_out/x"}, "were of held_out/loss"),
    ):
        after, (line,) = goes_on(before, **change)
        assert words in line and "begin anew" in line and after.best is None and after.waited == 0


def test_a_best_checkpoint_that_is_gone_is_said():
    before = improvement()
    before.take(10, 2.0)
    after, (line,) = goes_on(before, lambda step: False, step=10)
    assert "that of step 10, is gone" in line and after.checkpoint is None and after.best == Score(10, 2.0)


def test_metrics_have_a_known_direction():
    check_metric("held_out/loss", SFTObjective.better)
    check_metric("held_out/reward_margin", DPOObjective.better)
    with pytest.raises(SettingsError, match=r"held_out/reward_margin is none by which .* expected held_out/loss$"):
        check_metric("held_out/reward_margin", SFTObjective.better)
