"""The rank that others wait for is named: by its own passes, and by its own data. With two real ranks."""

import time

import pytest

from editcaption_mega import phases
from editcaption_mega.objectives import SFTObjective
from editcaption_mega.settings import BadStepSettings, OptimizerSettings
from editcaption_mega.training import stragglers
from editcaption_mega.training.bad_steps import BadSteps
from editcaption_mega.training.loop import Care, Span, run_steps
from editcaption_mega.training.stragglers import RankTime, Stragglers
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.train_state import train_state
from tests.training.test_loop import Recorder, steps

SLOW = 0.3


class SlowObjective(SFTObjective):
    def prepare(self, micro_batches, length):
        time.sleep(SLOW)


def run_slowly(rank, folder, what):
    """Two data-parallel ranks, of which the second is slow -> the lines, and the numbers of the last step."""
    stragglers.EVERY = 3
    state, _ = train_state(folder, OptimizerSettings())
    lines, recorder = [], Recorder()
    objective = SlowObjective() if (what, rank) == ("passes", 1) else SFTObjective()

    def own():
        for step in steps(0, 12):
            if (what, rank) == ("reading", 1):
                time.sleep(SLOW)
            yield step

    phases.begin()
    care = Care(Stragglers(1.5, lines.append), BadSteps(BadStepSettings(), folder))
    run_steps(state, objective, phases.read(own(), 0), Span(0, 12, 100), recorder, care=care)
    return lines, recorder.numbers


@pytest.mark.parametrize(("what", "words"), [("passes", "its own passes"), ("reading", "its own data")])
def test_the_slow_rank_is_named_once(tmp_path, what, words):
    tiny.hf_model(experts=False, layers=2).save_pretrained(tmp_path / "dense")
    for lines, numbers in on_ranks(run_slowly, tmp_path, tmp_path / "dense", what):
        about = [line for line in lines if words in line]
        assert len(about) == 1 and about[0].startswith("slow: rank 1 on "), lines
        assert ["slowest_rank" in row for row in numbers] == [False, False, True] * 4
        last = numbers[-1]
        assert last["slowest_rank_seconds"] >= last["median_rank_seconds"] > 0
        if what == "passes":
            assert last["slowest_rank"] == 1 and last["slowest_rank_seconds"] >= SLOW


def test_who_is_slow():
    times = [RankTime(rank, f"n{rank}", 1.0, 0.01) for rank in range(4)]
    compared = Stragglers(1.5, print)
    assert compared._lines(times) == []
    slow = [*times[:3], RankTime(3, "n3", 1.6, 0.01)]
    assert compared._lines(slow) + compared._lines(slow) == [], "it may pass"
    (line,) = compared._lines(slow)
    assert line == (
        "slow: rank 3 on n3 takes 1.60 s a step for its own passes, the median of all ranks is 1.00 s (last 16 steps; "
        "slow for 48)"
    )
    assert compared._lines(slow) == [], "it was named"
    noise = [RankTime(0, "n0", 0.001, 0.0), RankTime(1, "n1", 0.04, 0.0)]
    assert [compared._lines(noise) for _ in range(4)] == [[]] * 4, "milliseconds"
    unasked = Stragglers(0, print)
    assert [unasked._lines(slow) for _ in range(4)] == [[]] * 4


def test_a_rank_is_named_once_however_often_it_recovers():
    times = [RankTime(rank, f"n{rank}", 1.0, 0.01) for rank in range(4)]
    slow = [*times[:3], RankTime(3, "n3", 1.6, 0.01)]
    compared = Stragglers(1.5, print)
    assert sum(len(compared._lines(each)) for each in [slow, slow, slow, times] * 3) == 1


def test_the_noise_of_a_busy_machine_names_nobody():
    """Two ranks on two cores that others use, as in the demo: how many times the faster rank's time each took."""
    measured = [1.54, 1.05, -1.18, 1.15, 1.73, 1.27, 1.87, -1.23, -2.04, -1.38, -1.9, -1.06, -1.7, -1.22, -1.79, 1.33]
    compared = Stragglers(1.5, print)
    for ratio in measured:  # below 0: rank 0 was the slower one
        took = (0.25, 0.25 * ratio) if ratio > 0 else (-0.25 * ratio, 0.25)
        assert compared._lines([RankTime(rank, "vm", seconds, 0.0) for rank, seconds in enumerate(took)]) == []
    lasting = [RankTime(0, "vm", 0.25, 0.0), RankTime(1, "vm", 0.5, 0.0)]
    (line,) = [line for _ in range(8) for line in compared._lines(lasting)]
    assert line.startswith("slow: rank 1 on vm takes 0.50 s a step for its own passes, the other rank's is 0.25 s")
