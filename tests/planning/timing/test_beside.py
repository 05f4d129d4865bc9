"""Communication beside compute is paid for where compute does not cover it, and takes what others leave of its link."""

import pytest

from editcaption_mega.planning.step_time import Passes, assemble
from editcaption_mega.planning.timing.beside import Gather, Reduction, delay, gathers, reduced, reductions, through
from editcaption_mega.planning.timing.cost import Communication, Operation, StreamTime, stream_time
from editcaption_mega.planning.timing.hardware import load_hardware

NONE = StreamTime(0.0)
RANKS = tuple(range(0, 64, 8))  # one of each node


@pytest.fixture(scope="module")
def h100():
    return load_hardware("h100")


def computing(seconds, hardware):
    return Operation("add", "copy", bytes=seconds * hardware.copy_bandwidth)


def test_it_takes_no_time_of_the_stream(h100):
    work = computing(0.1, h100)
    bucket = Communication("reduce_scatter", 1e9, RANKS, handle=1)
    scaling = Operation("mul_", "copy", bytes=1e9, handle=1)
    wait = Operation("wait", "wait", launches=0, handle=1)
    alone, beside = stream_time([work, work], h100), stream_time([work, scaling, bucket, work, wait], h100)
    assert beside.seconds == pytest.approx(alone.seconds, rel=1e-3) and beside.by_kind == alone.by_kind


def test_a_reduction_begins_with_its_last_gradient(h100):
    work, scaling = computing(0.1, h100), Operation("mul_", "copy", bytes=2.8e9, handle=1)
    bucket = Communication("reduce_scatter", 1e9, RANKS, handle=1)
    (found,) = reductions([work, work, scaling, bucket, work], h100)
    assert found.at == pytest.approx(0.2, rel=1e-3) and found.preparing == pytest.approx(scaling.seconds(h100))
    assert found.seconds == bucket.seconds(h100)


def test_what_a_pass_communicates_itself_goes_before(h100):
    """Half of the pass is communication over the same link: the rest takes twice as long. Over another it does not."""
    bucket = Communication("all_gather", 1e9, RANKS, handle=1)
    own = Communication("all_gather", 45e9 * 0.1 * 8 / 7, RANKS)
    inside = Communication("all_gather", 330e9 * 0.1 * 8 / 7, tuple(range(8)))
    work = computing(0.1, h100)
    assert through([bucket], [work, own], h100)[1] == pytest.approx(2 * bucket.seconds(h100), rel=1e-2)
    assert through([bucket], [work, inside], h100)[1] == bucket.seconds(h100)


def test_gathers_go_one_after_another_and_each_is_waited_for_where_it_is_needed(h100):
    first, second = (Communication("all_gather", 1e9, RANKS, handle=handle) for handle in (1, 2))
    work = computing(0.1, h100)
    waits = [Operation("wait", "wait", launches=0, handle=handle) for handle in (1, 2)]
    one = first.seconds(h100)
    ends = through([first, second], [work], h100)
    assert ends == {1: pytest.approx(one), 2: pytest.approx(2 * one)}
    found = gathers([waits[0], work, waits[1], work], ends, h100)
    assert [wait.at for wait in found] == pytest.approx([0, 0.1], abs=1e-4)
    assert delay([Gather(0.0, 0.3), Gather(0.5, 0.6)], 0.0) == 0.3
    assert delay([Gather(0.0, 0.3), Gather(0.1, 0.6)], 0.1) == pytest.approx(0.4)
    assert delay([Gather(0.0, 0.3), Gather(0.5, 0.6)], 0.4) == 0.0


def test_the_link_takes_buckets_as_they_come():
    assert reduced([(0.0, [Reduction(0.1, 0.5), Reduction(0.2, 0.5)])]) == pytest.approx(1.1)
    assert reduced([(0.0, [Reduction(0.1, 0.05), Reduction(0.2, 0.5)]), (1.0, [Reduction(0.0, 0.1)])]) == 1.1


def step(h100, stages, micro_batches=4, **beside):
    """forward 1 s, backward 2 s."""
    made = [Passes((StreamTime(1.0),), (StreamTime(2.0),), NONE, NONE, **beside.get(str(i), {})) for i in range(stages)]
    return assemble(made, micro_batches, (1.0, 0.0), h100, stages)


def on(**values):
    return {f"{name}": (tuple(of_chunk),) for name, of_chunk in values.items()}


def test_one_stage_pays_for_what_its_first_forward_and_last_backward_do_not_cover(h100):
    assert step(h100, 1).seconds == 12.0
    covered = {"0": on(gathers=[Gather(0.5, 0.5)], reductions=[Reduction(1.0, 1.0)])}
    assert step(h100, 1, **covered).seconds == 12.0
    exposed = {"0": on(gathers=[Gather(0.0, 0.25), Gather(0.5, 1.5)], reductions=[Reduction(1.5, 1.0, 0.1)])}
    time = step(h100, 1, **exposed)
    assert time.seconds == pytest.approx(12.0 + 1.0 + 0.1 + 0.4)
    assert (time.uncovered_gathers, time.uncovered_reductions) == (pytest.approx(1.0), pytest.approx(0.4))


def test_later_stages_have_the_filling_and_the_draining_of_the_pipeline(h100):
    """The last of three is reached after 2 s, and ends its last backward 4 s before the first."""
    late = on(gathers=[Gather(0.0, 1.9)], reductions=[Reduction(2.0, 3.9)])
    assert step(h100, 3, **{"2": late}).seconds == step(h100, 3).seconds
    assert step(h100, 3, **{"0": late}).seconds == pytest.approx(step(h100, 3).seconds + 1.9 + 3.9)
    later = on(gathers=[Gather(0.0, 2.5)], reductions=[Reduction(2.0, 4.5)])
    assert step(h100, 3, **{"2": later}).seconds == pytest.approx(step(h100, 3).seconds + 0.5 + 0.5)


def test_a_resident_reference_covers_gathers(h100):
    passes = Passes((StreamTime(1.0),), (StreamTime(2.0),), NONE, NONE, reference=0.5, **on(gathers=[Gather(0.0, 2.0)]))
    assert assemble([passes], 4, (1.0, 0.0), h100, 1).seconds == 12.0 + 4 * 0.5
