"""The clock of a pipeline, against times computed by hand."""

import pytest

from editcaption_mega.planning.timing.schedule import Work
from editcaption_mega.planning.timing.simulation import Slot, simulate


@pytest.mark.parametrize(("stages", "micro_batches"), [(1, 3), (2, 1), (4, 8), (8, 11)])
def test_level_stages_lose_the_known_share(stages, micro_batches):
    """(p - 1) / (m + p - 1) of the time, Megatron-LM paper (arXiv 2104.04473), section 2.2."""
    timeline = simulate([[1]] * stages, [[2]] * stages, micro_batches)
    assert timeline.seconds == pytest.approx(3 * (micro_batches + stages - 1))
    assert timeline.bubble == pytest.approx((stages - 1) / (micro_batches + stages - 1))
    assert timeline.idle == pytest.approx([timeline.bubble] * stages)


@pytest.mark.parametrize(("stages", "chunks", "micro_batches"), [(2, 2, 4), (4, 3, 8), (8, 4, 8), (8, 2, 32)])
def test_chunks_divide_the_bubble(stages, chunks, micro_batches):
    times = [[1 / chunks] * chunks] * stages
    timeline = simulate(times, [[2 * t for t in chunk] for chunk in times], micro_batches)
    assert timeline.seconds == pytest.approx(3 * micro_batches + 3 * (stages - 1) / chunks)


def test_two_stages_by_hand():
    timeline = simulate([[1], [2]], [[3], [4]], 2)
    assert timeline.stages == (
        (
            Slot(Work("forward", 0, 0), 0, 1),
            Slot(Work("forward", 0, 1), 1, 2),
            Slot(Work("backward", 0, 0), 7, 10),
            Slot(Work("backward", 0, 1), 13, 16),
        ),
        (
            Slot(Work("forward", 0, 0), 1, 3),
            Slot(Work("backward", 0, 0), 3, 7),
            Slot(Work("forward", 0, 1), 7, 9),
            Slot(Work("backward", 0, 1), 9, 13),
        ),
    )
    assert timeline.seconds == 16 and timeline.idle == pytest.approx((0.5, 0.25)) and timeline.bubble == 0.375


def test_the_slowest_stage_sets_the_pace():
    level, uneven = (
        simulate([[1]] * 4, [[2]] * 4, 32),
        simulate([[1.6], [0.8], [0.8], [0.8]], [[3.2]] + [[1.6]] * 3, 32),
    )
    assert uneven.seconds > 1.45 * level.seconds and uneven.idle[0] < 0.1 < 0.45 < uneven.idle[1]


def test_transfers_of_a_plain_pipeline_are_exposed():
    """One micro-batch crosses 3 links down and 3 up; with many, a round of a forward and a backward waits for two."""
    assert simulate([[1]] * 4, [[2]] * 4, 1, transfer_seconds=0.5).seconds == pytest.approx(4 * 3 + 6 * 0.5)
    steady = [simulate([[1]] * 4, [[2]] * 4, m, transfer_seconds=0.5).seconds for m in (20, 21)]
    assert steady[1] - steady[0] == pytest.approx(3 + 2 * 0.5)


def test_transfers_of_an_interleaved_pipeline_overlap():
    times = [[0.5, 0.5]] * 4, [[1.0, 1.0]] * 4
    steady = [simulate(*times, m, transfer_seconds=0.1).seconds for m in (20, 24)]
    assert steady[1] - steady[0] == pytest.approx(4 * 3)


def test_a_stage_waits_for_what_it_sends():
    """Two uneven chunks per stage, which took Megatron's own schedule 67.9 units (test_schedule.py has the case). Were
    sends not waited for, it would be 61."""
    forward = [[1, 0.5], [0.5, 2], [2, 0.5], [2, 0.5]]
    backward = [[3, 1], [0.5, 2], [0.5, 1], [3, 1]]
    assert simulate(forward, backward, 8).seconds == pytest.approx(67.5)


def test_a_link_may_be_slower_than_the_others():
    seconds = simulate([[1]] * 3, [[2]] * 3, 1, transfer_seconds=[0.5, 2.0, 100.0]).seconds
    assert seconds == pytest.approx(3 * 3 + 2 * 2.5)


def test_micro_batches_may_differ():
    assert simulate([[[1, 2, 3]]], [[[2, 4, 6]]], 3).seconds == 18
    alike = simulate([[1], [1]], [[2], [2]], 3)
    assert simulate([[[1, 1, 1]], [1]], [[2], [[2, 2, 2]]], 3) == alike
    assert simulate([[[1, 1, 1]], [1]], [[2], [[2, 2, 5]]], 3).seconds == alike.seconds + 3


@pytest.mark.parametrize(
    ("arguments", "options", "message"),
    [
        (([[1], [1]], [[2]], 2), {}, "expected one number of stages and one of chunks"),
        (([[1], [1, 1]], [[2], [2]], 2), {}, "expected one number of stages and one of chunks"),
        (([[[1, 1]]], [[2]], 3), {}, "2 seconds of passes for 3 micro-batches"),
        (([[1], [1]], [[2], [2]], 2), {"transfer_seconds": [1.0]}, "has 1 links: expected 2"),
        (([[1, 1]] * 2, [[2, 2]] * 2, 3), {}, "3 micro-batches in groups of 2 leave 1"),
    ],
)
def test_what_does_not_match_is_refused(arguments, options, message):
    with pytest.raises(ValueError, match=message):
        simulate(*arguments, **options)


def test_weight_gradients_behind_what_is_sent_shorten_the_end():
    """Each of three stages: forward, backward and weight gradients take a second."""
    plain = simulate([[1]] * 3, [[2]] * 3, 6)
    times = [simulate([[1]] * 3, [[2], [1], [1]], 6, gradients=[0, 1, 1], delayed=counts).seconds for counts in WAITING]
    assert plain.seconds == 3 * 6 + 2 * 3
    # Stage 0 ends last. Its last gradient comes a second earlier for each stage behind it that sends before it makes
    # its own; where stage 2 begins the end with two micro-batches' to make, it has sent the last two seconds earlier.
    assert times == [22, 21, 20]


WAITING = ([0, 0, 0], [0, 0, 1], [0, 1, 2])
