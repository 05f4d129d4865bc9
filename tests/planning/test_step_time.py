"""The time of a step from hand-made records: sums that a person can check."""

import pytest

from editcaption_mega.planning.dry_run.recorder import Phase
from editcaption_mega.planning.step_time import model_flops, passes_of, predict
from editcaption_mega.planning.timing.cost import Operation

from .given_plan import HARDWARE, MICRO_BATCHES, RANKS, STAGES, given_record, product, send


def test_one_stage_takes_the_sum_of_its_parts():
    time = predict([given_record(0)], HARDWARE, 1, 1)
    assert time.seconds == pytest.approx(0.5 + 3 * MICRO_BATCHES + 1)
    assert (time.before, time.after, time.bubble, time.imbalance) == pytest.approx((0.5, 1, 0, 1))
    assert time.shares == pytest.approx(
        {
            "dense products": 3 * MICRO_BATCHES / time.seconds,
            "gradients over ranks and update": 1 / time.seconds,
            "inputs to the device": 0.5 / time.seconds,
        }
    )
    assert list(time.shares.values()) == sorted(time.shares.values(), reverse=True)


def test_a_copy_within_a_pass_is_added_to_the_inputs_before_it():
    phases = given_record(0).phases
    for phase in phases:
        if phase.kind == "forward":
            phase.steps.append(Operation("copy_", "host_copy", bytes=2.5e11))
    time = predict([given_record(0, phases=phases)], HARDWARE, 1, 1)
    assert time.shares["inputs to the device"] == pytest.approx((0.5 + 0.25 * MICRO_BATCHES) / time.seconds)
    assert sum(time.shares.values()) == pytest.approx(1)


def test_stages_that_take_equally_long_wait_for_the_pipeline_to_fill():
    """1F1B: (micro-batches + stages - 1) forward and backward passes."""
    time = predict([given_record(0), given_record(1)], HARDWARE, RANKS, 1)
    assert time.timeline.seconds == pytest.approx(3 * (MICRO_BATCHES + STAGES - 1))
    assert time.bubble == pytest.approx((STAGES - 1) / (MICRO_BATCHES + STAGES - 1))
    assert time.shares["waiting for other stages"] == pytest.approx(3 / time.seconds)
    assert sum(time.shares.values()) == pytest.approx(1)


def test_the_busiest_stage_is_what_shares_are_of():
    time = predict([given_record(0, 1.0), given_record(1, 3.0)], HARDWARE, RANKS, 1)
    assert time.imbalance == pytest.approx(1.5)
    assert time.shares["dense products"] == pytest.approx(9 * MICRO_BATCHES / time.seconds)
    assert sum(time.shares.values()) == pytest.approx(1)


def test_useful_work_is_three_forward_passes_without_padding():
    """A second of each is 1e12 FLOP, the GPU's peak 2e12: 0.5 where nothing else takes time."""
    whole = given_record(0)
    assert predict([whole], HARDWARE, 1, 1).mfu == pytest.approx(0.5 * 3 * MICRO_BATCHES / (3 * MICRO_BATCHES + 1.5))
    half = given_record(0, tokens=whole.tokens // 2)
    assert model_flops([half], 1, 1) == (0.5 * model_flops([whole], 1, 1)[0], 0.0)


def test_pictures_are_those_of_all_tensor_parallel_ranks():
    """Of two ranks that share a row, one has 3 of its 4 patches: what it computes counts 4 / 3 times over both."""
    phase = Phase("forward", 0, 0, [product(1.0)], vision_flops=0.25e12)
    record = given_record(0, phases=[phase], patches=3, patches_of_rows=4)
    language, vision = model_flops([record], 2, 2)
    assert language == pytest.approx(3 * 0.75e12 * MICRO_BATCHES * 2)
    assert vision == pytest.approx(3 * 0.25e12 * MICRO_BATCHES * 4 / 3)


def test_a_resident_reference_runs_forward_before_the_pipeline():
    record = given_record(0)
    phases = [record.phases[0], Phase("reference", 0, 0, [product(0.5)]), *record.phases[1:]]
    time = predict([given_record(0, phases=phases)], HARDWARE, 1, 1)
    assert time.reference == pytest.approx(0.5 * MICRO_BATCHES)
    assert time.seconds == pytest.approx(0.5 + 3.5 * MICRO_BATCHES + 1)
    assert sum(time.shares.values()) == pytest.approx(1)


def test_sends_are_the_pipeline_s_and_no_part_of_inputs_or_update():
    record = given_record(0)
    between = Phase("step", steps=[send(1e9, 0, 2)])
    passes = passes_of(given_record(0, phases=[*record.phases[:2], between, *record.phases[2:]]), HARDWARE)
    assert passes.transfer == pytest.approx(send(1e9, 0, 2).seconds(HARDWARE)) and passes.transfer > 0
    assert (passes.before.seconds, passes.after.seconds) == pytest.approx((0.5, 1))


def test_recomputation_is_its_part_of_the_backward_pass():
    phases = given_record(0).phases
    for phase in phases:
        if phase.kind == "backward":
            phase.recomputed_flops = 0.5e12
    passes = passes_of(given_record(0, phases=phases), HARDWARE)
    assert passes.recomputed == pytest.approx(0.5) and passes.busy == pytest.approx(3)


def test_a_gpu_that_waits_for_the_host_is_counted():
    slow = Operation("view", "host", launches=int(1e5))
    phases = given_record(0).phases
    for phase in phases:
        if phase.kind == "forward":
            phase.steps.insert(0, slow)
    hardware = HARDWARE.__class__(**{**HARDWARE.__dict__, "launch_seconds": 1e-5})
    time = predict([given_record(0, phases=phases)], hardware, 1, 1)
    assert time.shares["waiting for the host"] == pytest.approx(MICRO_BATCHES / time.seconds, rel=1e-3)
    assert sum(time.shares.values()) == pytest.approx(1)
