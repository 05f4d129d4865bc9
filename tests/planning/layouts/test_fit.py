"""Stages put together from parts made by hand: every number can be added up on paper."""

from dataclasses import replace

import pytest

from editcaption_mega.planning.layouts.fit import Run, chunk_of, passes_of_stage, stage_memory
from editcaption_mega.planning.layouts.pieces import Costs, StagePart
from editcaption_mega.planning.timing.cost import StreamTime
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.timing.moments import moments
from editcaption_mega.settings import ParallelSettings

GB = 10**9
LAYER = StagePart(
    forward=StreamTime(0.01, {"matmul": 0.01}), backward=StreamTime(0.02), after=StreamTime(0.1), weights=1 * GB,
    gradients=2 * GB, optimizer=3 * GB, parameters=5, retained=0.5 * GB, forward_peak=0.7 * GB, backward_peak=0.3 * GB,
    language_flops=10,
)  # fmt: skip
# A stage of one layer has the hidden states that it received besides.
COSTS = Costs(LAYER, LAYER.plus(StagePart(inputs=0.1 * GB, retained=0.05 * GB)))
FIRST = Costs(*(
    StagePart(
        forward=StreamTime(0.05), backward=StreamTime(0.1), after=StreamTime(0.3), between_stages=0.2,
        before=StreamTime(0.03), weights=2 * GB, inputs=0.4 * GB, retained=4 * GB,
        forward_peak=4.5 * GB, backward_peak=1 * GB, vision_flops=100,
    ),
) * 2)  # fmt: skip
LAST = Costs(*(
    StagePart(
        forward=StreamTime(0.001), backward=StreamTime(0.002), after=StreamTime(0.3), between_stages=0.2,
        weights=3 * GB, inputs=0.1 * GB, retained=0.2 * GB, forward_peak=0.3 * GB, backward_peak=0.9 * GB,
    ),
) * 2)  # fmt: skip


def test_a_chunk_is_the_sum_of_its_parts():
    chunk = chunk_of(FIRST, [Run(COSTS, 3)], None, transfer=0.004)
    total = chunk.total
    assert total.forward.seconds == pytest.approx(0.05 + 3 * 0.01)
    assert total.forward.by_kind["matmul"] == pytest.approx(0.03)
    assert total.backward.seconds == pytest.approx(0.1 + 3 * 0.02)
    assert total.states == 2 * GB + 3 * 6 * GB
    assert total.retained == 5.5 * GB and total.transfer == 0.004
    assert total.language_flops == 30 and total.vision_flops == 100


def test_the_forward_peak_is_where_the_last_part_is_on_top_of_the_others():
    chunk = chunk_of(FIRST, [Run(COSTS, 3)], None)
    assert chunk.forward_peak == pytest.approx(max(4.5, 4 + 2 * 0.5 + 0.75 - 0.05) * GB)


def test_the_backward_peak_counts_what_later_parts_have_freed():
    # The head stands on all that is held; the vision tower's pass begins when head and layers are free.
    chunk = chunk_of(FIRST, [Run(COSTS, 3)], LAST)
    assert chunk.backward_peak == pytest.approx(0.9 * GB)
    heavy = Costs(FIRST.each, replace(FIRST.alone, backward_peak=3 * GB))
    assert chunk_of(heavy, [Run(COSTS, 3)], LAST).backward_peak == pytest.approx((3 - 0.2 - 3 * 0.5) * GB)


def test_a_stage_between_others_holds_what_it_received():
    chunk = chunk_of(None, [Run(COSTS, 2)], None)
    assert chunk.total.inputs == pytest.approx(0.1 * GB)
    assert chunk.total.retained == pytest.approx(2 * 0.5 * GB + 0.05 * GB)
    assert chunk.total.states == 2 * 6 * GB


def test_the_whole_model_on_one_stage_exchanges_nothing_between_stages():
    chunk = chunk_of(FIRST, [Run(COSTS, 2)], LAST)
    assert chunk.total.after.seconds == pytest.approx(0.3 + 0.3 + 2 * 0.1 - 2 * 0.2)


def test_tied_weights_are_counted_once():
    part = LAST.each.without_weights()
    assert part.states == part.parameters == part.after.seconds == part.between_stages == 0
    assert part.forward == LAST.each.forward and part.retained == LAST.each.retained


@pytest.mark.parametrize("stage, most", [(0, 4), (1, 3), (2, 2), (3, 1)])
def test_a_stage_holds_as_many_micro_batches_as_stages_follow(stage, most):
    flying = [counts[0] for kind, _, counts in moments(stage, 4, 1, 8) if kind == "backward"]
    assert max(flying) == most


def test_weight_gradients_that_wait_take_the_place_of_micro_batches_in_flight():
    """The last of four stages has one micro-batch in flight, and here what waits of two others."""
    assert ("backward", 0, (1, 2)) in moments(3, 4, 1, 8, (0, 0, 1, 2))
    assert max(counts[1] for _, _, counts in moments(0, 4, 1, 8, (0, 0, 1, 2))) == 0
    part = replace(LAYER, waiting=1.5 * GB, made_later=StreamTime(0.5))
    chunk = chunk_of(None, [Run(Costs(part, replace(part, gradients_peak=0.2 * GB)), 1)], None)
    parallel = ParallelSettings(pipeline_model_parallel_size=4, delayed_weight_gradients=[0, 0, 1, 2])
    plain = ParallelSettings(pipeline_model_parallel_size=4)
    assert ("gradients", 0, (0, 3)) in moments(3, 4, 1, 8, (0, 0, 1, 2))
    memory, without = (stage_memory([chunk], each, 3, 8, load_hardware("h100"), 32) for each in (parallel, plain))
    # Behind a backward pass three wait, one of which is made.
    assert memory.activations == pytest.approx((3 * 1.5 + 0.2) * GB)
    assert memory.activations > without.activations
    assert passes_of_stage([chunk]).gradients.seconds == 0.5
    assert chunk.at_once().total.backward.seconds == chunk.total.backward.seconds + 0.5


def test_memory_of_a_stage_is_states_inputs_and_micro_batches_in_flight():
    hardware = load_hardware("h100")
    parallel = ParallelSettings(pipeline_model_parallel_size=4)
    chunk = chunk_of(FIRST, [Run(COSTS, 3)], None)
    memory = stage_memory([chunk], parallel, 0, 8, hardware, 32)
    assert memory.states == 20 * GB and memory.inputs == pytest.approx(8 * 0.4 * GB)
    # Four in flight, the fourth at its forward peak or at its backward peak.
    assert memory.activations == pytest.approx(max(3 * 5.5 + 5.7, 4 * 5.5 + 0.3) * GB)
    assert memory.needed > memory.peak
    few = stage_memory([chunk], parallel, 0, 2, hardware, 32)
    assert few.activations < memory.activations


def test_the_updates_temporaries_are_a_peak_of_their_own():
    costs = Costs(replace(LAYER, update=9 * GB), LAYER)
    chunk = chunk_of(None, [Run(costs, 3)], LAST)
    memory = stage_memory([chunk], ParallelSettings(), 0, 1, load_hardware("h100"), 1)
    assert memory.activations == 27 * GB


@pytest.mark.parametrize("kind", ["start", "checkpoint"])
def test_what_the_start_or_a_checkpoint_takes_beyond_the_step_is_needed_too(kind):
    def memory_with(extra):
        costs = Costs(replace(LAYER, **{kind: extra}), replace(LAYER, **{kind: extra}))
        return stage_memory([chunk_of(None, [Run(costs, 3)], LAST)], ParallelSettings(), 0, 1, load_hardware("h100"), 1)

    without, little, much = (memory_with(extra * GB) for extra in (0, 0.1, 20))
    assert without.beyond_step == little.beyond_step == 0 and little.needed == without.needed
    assert much.peak == without.peak and much.beyond_step == pytest.approx(much.states + 60 * GB - much.peak)
    assert much.needed == pytest.approx(without.needed + much.beyond_step)


def test_what_a_stage_sends_has_as_many_slots_as_tensors():
    passes = passes_of_stage([chunk_of(FIRST, [Run(COSTS, 1)], None, transfer=0.004)], slots=4)
    assert passes.before.seconds == pytest.approx(0.03), "inputs were copied while the step before was computed"
    assert passes.transfer == pytest.approx(0.016)
