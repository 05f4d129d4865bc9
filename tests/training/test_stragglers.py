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

SLOW = 0.4


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
        for step in steps(0, 6):
            if (what, rank) == ("reading", 1):
                time.sleep(SLOW)
            yield step

    phases.begin()
    care = Care(Stragglers(1.5, lines.append), BadSteps(BadStepSettings(), folder))
    run_steps(state, objective, phases.read(own(), 0), Span(0, 6, 100), recorder, care=care)
    return lines, recorder.numbers


@pytest.mark.parametrize(("what", "words"), [("passes", "its own passes"), ("reading", "its own data")])
def test_the_slow_rank_is_named_once(tmp_path, what, words):
    tiny.hf_model(experts=False, layers=2).save_pretrained(tmp_path / "dense")
    for lines, numbers in on_ranks(run_slowly, tmp_path, tmp_path / "dense", what):
        about = [line for line in lines if words in line]
        assert len(about) == 1 and about[0].startswith("slow: rank 1 on "), lines
        assert ["slowest_rank" in row for row in numbers] == [False, False, True] * 2
        last = numbers[-1]
        assert last["slowest_rank_seconds"] >= last["median_rank_seconds"] > 0
        if what == "passes":
            assert last["slowest_rank"] == 1 and last["slowest_rank_seconds"] >= SLOW


def test_who_is_slow():
    times = [RankTime(rank, f"n{rank}", 1.0, 0.01) for rank in range(4)]
    compared = Stragglers(1.5, print)
    assert compared._lines(times) == []
    slow = [*times[:3], RankTime(3, "n3", 1.6, 0.01)]
    (line,) = compared._lines(slow)
    assert line.startswith("slow: rank 3 on n3 takes 1.60 s a step for its own passes, the median of all ranks is 1.00")
    assert compared._lines(slow) == [], "it was named"
    assert compared._lines(times) == [] and len(compared._lines(slow)) == 1, "it was well in between"
    noise = [RankTime(0, "n0", 0.001, 0.0), RankTime(1, "n1", 0.04, 0.0)]
    assert compared._lines(noise) == [], "milliseconds"
    assert Stragglers(0, print)._lines(slow) == []
