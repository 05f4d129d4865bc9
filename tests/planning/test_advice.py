"""Each cost that is taken away makes the step as much shorter as it was, by hand-made stages."""

from types import SimpleNamespace

import pytest

from editcaption_mega.planning.advice import advice_lines, on_more_gpus, what_would_help
from editcaption_mega.planning.step_time import Passes, assemble
from editcaption_mega.planning.timing.cost import Operation, StreamTime
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.settings import ModelSettings, ParallelSettings

from .given_plan import MICRO_BATCHES, given_plan, given_record

HARDWARE, COUNT, NONE = load_hardware("h100"), 8, StreamTime(0.0)


def plan_of(*stages: Passes) -> SimpleNamespace:
    record = SimpleNamespace(
        micro_batches=COUNT, coordinates={"pipeline": 0}, patches=0, phases=[], tokens=1, row_length=1, passes=(3, 3)
    )
    settings = SimpleNamespace(parallel=ParallelSettings(), model=ModelSettings(flash_attention=3))
    time = assemble(stages, COUNT, (0.0, 0.0), HARDWARE, 1)
    return SimpleNamespace(time=time, records=[record], settings=settings, world_size=1, hardware=HARDWARE)


def stage(forward: float, backward: StreamTime, after: StreamTime = NONE, recomputed: float = 0.0) -> Passes:
    return Passes((StreamTime(forward, {"matmul": forward}),), (backward,), NONE, after, recomputed)


def test_one_stage_says_what_each_cost_was():
    backward = StreamTime(5.0, {"matmul": 3.0, "all_gather": 1.0}, starved=1.0)
    after = StreamTime(4.0, {"copy": 1.0, "reduce_scatter": 3.0})
    plan = plan_of(stage(1.0, backward, after, recomputed=2.0))
    total = COUNT * 6.0 + 4.0
    assert plan.time.seconds == pytest.approx(total)
    shares = {variant.what: variant.share for variant in what_would_help(plan)}
    assert shares == {
        "nothing recomputed": pytest.approx((total - COUNT * 2) / total),
        "communication of tensor and expert parallelism hidden": pytest.approx((total - COUNT) / total),
        "no waiting for the host": pytest.approx((total - COUNT) / total),
        "gradient and parameter communication hidden": pytest.approx((total - 3) / total),
    }
    assert on_more_gpus(plan) == (2, pytest.approx(COUNT / 2 * 6.0 + 4.0), pytest.approx(total))


def test_an_uneven_pipeline_is_told_to_be_level():
    plan = plan_of(stage(3.0, StreamTime(6.0, {"matmul": 6.0})), stage(1.0, StreamTime(2.0, {"matmul": 2.0})))
    best = what_would_help(plan)[0]
    assert best.what == "stages that take equally long" and best.share < 0.8


def test_where_nothing_would_help_the_text_says_so():
    plan = plan_of(stage(1.0, StreamTime(2.0, {"matmul": 2.0})))
    plan.settings.training = SimpleNamespace(global_batch_size=8)
    first, *rest = advice_lines(plan, None, None)
    assert first.startswith("no single cost") and len(rest) == 1


def test_attention_that_these_gpus_could_compute_faster_is_named():
    """A second of attention in each forward pass, as FlashAttention-2 computes it."""
    record = given_record(0)
    for phase in record.phases:
        if phase.kind == "forward":
            phase.steps.append(Operation("attention", "attention", flops=298e12, rows=2048, columns=128))
    plan = given_plan(record)
    shares = {variant.what: variant.share for variant in what_would_help(plan)}
    share = shares["FlashAttention-3, with model.flash_attention=3"]
    saved = MICRO_BATCHES * (1 - 298e12 / 521e12)
    assert share == pytest.approx((plan.time.seconds - saved) / plan.time.seconds)
    plan.settings.model.flash_attention = 3
    assert not any("FlashAttention" in variant.what for variant in what_would_help(plan))
