"""Each schedule against transformers' function of it, where it has one, and against its formula."""

import math
import warnings

import pytest
import torch
import transformers

from editcaption_mega.settings import OptimizerSettings
from editcaption_mega.settings.job_optimizer import DECAY_FORMS, SCHEDULES
from editcaption_mega.training.learning_rate import build_schedule, schedule_lines

PEAK, LEAST, TOTAL, DECAY = 2e-3, 3e-4, 24, 7
WSD = {"schedule": "wsd", "decay_steps": DECAY}


def ours(steps: int = TOTAL, total: int = TOTAL, group: dict | None = None, **settings) -> list[float]:
    """The rates of the first steps of a run of `total`."""
    optimizer = torch.optim.AdamW([{"params": [torch.nn.Parameter(torch.zeros(1))], **(group or {})}], lr=1.0)
    options = {"learning_rate": PEAK, "min_learning_rate": LEAST} | settings
    schedule = build_schedule(optimizer, OptimizerSettings(**options), total)
    rates = []
    for _ in range(steps):
        rates.append(optimizer.param_groups[0]["lr"])
        schedule.step(increment=1)
    return rates


def theirs(make, steps: int = TOTAL, **options) -> list[float]:
    optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))], lr=PEAK)
    schedule = make(optimizer, **options)
    rates = []
    for _ in range(steps):
        rates.append(schedule.get_last_lr()[0])
        with warnings.catch_warnings():  # that no optimizer step was made
            warnings.simplefilter("ignore")
            optimizer.step()
            schedule.step()
    return rates


def of_transformers(schedule: str, warmup: int) -> list[float]:
    """The rates with this warm-up; transformers' functions of a straight line and of a constant end at 0."""
    in_all = {"num_warmup_steps": warmup, "num_training_steps": TOTAL}
    if schedule == "constant":
        return theirs(transformers.get_constant_schedule_with_warmup, num_warmup_steps=warmup)
    if schedule == "linear":
        return theirs(transformers.get_linear_schedule_with_warmup, **in_all)
    if schedule == "cosine":
        return theirs(transformers.get_cosine_with_min_lr_schedule_with_warmup, **in_all, min_lr=LEAST)
    return theirs(
        transformers.get_wsd_schedule, **in_all, num_decay_steps=DECAY, decay_type="linear", min_lr_ratio=LEAST / PEAK
    )


@pytest.mark.parametrize("warmup", [0, 1, 5])
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_after_warmup_rates_are_those_of_transformers(schedule, warmup):
    settings = WSD if schedule == "wsd" else {"schedule": schedule}
    least = {"linear": 0.0}.get(schedule, LEAST)
    rates = ours(warmup_steps=warmup, min_learning_rate=least, **settings)
    assert rates[warmup:] == pytest.approx(of_transformers(schedule, warmup)[warmup:], rel=1e-12)
    # Warm-up is theirs of one step more, without its first, whose rate is 0.
    longer = theirs(transformers.get_constant_schedule_with_warmup, num_warmup_steps=warmup + 1)
    assert longer[0] == 0
    assert rates[: warmup + 1] == pytest.approx(longer[1 : warmup + 2], rel=1e-12)
    assert min(rates) > 0 and rates[0] == pytest.approx(PEAK / (warmup + 1))


@pytest.mark.parametrize("form, theirs_form", [("linear", "linear"), ("cosine", "cosine"), ("minus_sqrt", "1-sqrt")])
def test_decays_at_the_end_are_those_of_transformers(form, theirs_form):
    rates = ours(TOTAL + 3, warmup_steps=4, decay_form=form, **WSD)
    expected = theirs(
        transformers.get_wsd_schedule, TOTAL + 3, num_warmup_steps=4, num_decay_steps=DECAY, num_training_steps=TOTAL,
        decay_type=theirs_form, min_lr_ratio=LEAST / PEAK,
    )  # fmt: skip
    assert rates[4:] == pytest.approx(expected[4:], rel=1e-12)
    assert rates[TOTAL - DECAY] == PEAK > rates[TOTAL - DECAY + 1] and rates[TOTAL] == pytest.approx(LEAST)


@pytest.mark.parametrize("form", DECAY_FORMS)
def test_decays_at_the_end_by_their_formulas(form):
    falls = {
        "linear": lambda y: 1 - y,
        "cosine": lambda y: (1 + math.cos(math.pi * y)) / 2,
        "exponential": lambda y: 2 * 0.5**y - 1,
        "minus_sqrt": lambda y: 1 - math.sqrt(y),
    }
    rates = ours(decay_form=form, **WSD)
    expected = [LEAST + (PEAK - LEAST) * falls[form](k / DECAY) for k in range(DECAY)]
    assert rates[-DECAY:] == pytest.approx(expected, rel=1e-12) and rates[: TOTAL - DECAY] == [PEAK] * (TOTAL - DECAY)


def test_a_straight_line_ends_at_the_least_rate():
    rates = ours(TOTAL + 2, warmup_steps=4, schedule="linear")
    falls = {round(b - a, 15) for a, b in zip(rates[4:TOTAL], rates[5 : TOTAL + 1], strict=True)}
    assert len(falls) == 1 and rates[TOTAL] == rates[TOTAL + 1] == pytest.approx(LEAST)


def test_shares_of_all_steps_are_steps():
    by_steps = ours(warmup_steps=5, schedule="wsd", decay_steps=8)
    assert ours(warmup_ratio=0.2, schedule="wsd", decay_ratio=0.33) == by_steps, "4.8 and 7.92, rounded up"


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_module_has_the_same_schedule_at_its_own_rate(schedule):
    settings = {"warmup_steps": 3} | (WSD if schedule == "wsd" else {"schedule": schedule})
    whole = ours(**settings)
    assert ours(group={"max_lr": PEAK / 2, "min_lr": LEAST / 2}, **settings) == pytest.approx([r / 2 for r in whole])


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_a_run_that_goes_on_has_the_rates_of_one_that_never_stopped(schedule):
    settings = {"warmup_steps": 3} | (WSD if schedule == "wsd" else {"schedule": schedule})
    whole = ours(**settings)
    for step in range(TOTAL):
        optimizer = torch.optim.AdamW([torch.nn.Parameter(torch.zeros(1))])
        options = OptimizerSettings(learning_rate=PEAK, min_learning_rate=LEAST, **settings)
        build_schedule(optimizer, options, TOTAL).step(increment=step)
        assert optimizer.param_groups[0]["lr"] == whole[step]


def test_the_stable_phase_knows_nothing_of_the_end():
    """So a run may go on from there with more steps, as if it had had them from the beginning."""
    short, long = (ours(total=total, warmup_steps=3, **WSD) for total in (TOTAL, 2 * TOTAL))
    assert short[: TOTAL - DECAY + 1] == long[: TOTAL - DECAY + 1] and short != long


def said(total: int = TOTAL, **settings) -> str:
    (line,) = schedule_lines(OptimizerSettings(learning_rate=PEAK, min_learning_rate=LEAST, **settings), total)
    return line


def test_the_log_says_what_the_rate_does():
    assert said() == "learning rate: falls from 0.002 as a cosine towards 0.0003 at step 24"
    assert said(schedule="linear", warmup_ratio=0.1) == (
        "learning rate: rises from 0.0005 at step 1 to 0.002 at step 4, falls from 0.002 in a straight line towards "
        "0.0003 at step 24"
    )
    assert said(schedule="constant", warmup_steps=1).endswith(
        "rises from 0.001 at step 1 to 0.002 at step 2, stays at 0.002"
    )
    assert said(**WSD, decay_form="cosine").endswith(
        "stays at 0.002 to step 18, falls (cosine) towards 0.0003 at step 24"
    )
    rates = ours(**WSD)
    assert rates[17] == PEAK > rates[18], "step 18 is the last with the whole rate"
    assert "warmup_steps=30 is not below the number of steps (24)" in said(warmup_steps=30)
    assert "warmup_ratio=1.0 is not below the number of steps (24)" in said(warmup_ratio=1.0)
    rates = ours(warmup_steps=30)
    assert f"rises, to {rates[-1]:.3g} at the last step" in said(warmup_steps=30) and rates == sorted(rates)
