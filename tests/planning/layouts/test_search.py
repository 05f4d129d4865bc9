"""A search looks at few layouts and misses none that is faster."""

from dataclasses import replace

import pytest

from editcaption_mega.model.released import released_architecture
from editcaption_mega.planning.layouts.bounds import in_longer_rows, least_seconds
from editcaption_mega.planning.layouts.choices import groups_of, groups_that_run, overrides, with_recompute
from editcaption_mega.planning.layouts.fit import fit
from editcaption_mega.planning.layouts.pieces import Pieces, StagePart
from editcaption_mega.planning.layouts.search import Limits, search
from editcaption_mega.planning.timing.cost import StreamTime
from editcaption_mega.planning.timing.hardware import load_hardware
from editcaption_mega.planning.timing.simulation import simulate
from editcaption_mega.planning.workload import Workload
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

from .given_pieces import GivenPieces

H100 = load_hardware("h100")
EVERY = 10**6
LAYERS = 16
LIMITS = Limits(16, 80.0)


def of_config(config: str, *changes: str, kind=Pieces, layers: int | None = None):
    settings = load_job(ROOT / f"configs/{config}.yaml", list(changes))
    architecture = released_architecture(settings.model.folder.rpartition("/")[2])
    architecture = replace(architecture, num_layers=layers or architecture.num_layers)
    return kind(settings, architecture, Workload(), H100)


def with_given_costs(delayed: str = "null", *more: str) -> GivenPieces:
    changes = [
        "parallel.layers_per_chunk=null",
        f"parallel.delayed_weight_gradients={delayed}",
        "training.global_batch_size=64",
        "parallel.pipeline_model_parallel_size=4",
        *more,
    ]
    return of_config("sft_qwen3_vl_235b_a22b", *changes, kind=GivenPieces, layers=LAYERS)


@pytest.fixture(scope="module")
def exhaustive():
    """Every layout that fits, fastest first, and the pieces that it took."""
    pieces = with_given_costs()
    return search(pieces, pieces.settings, LIMITS, top=EVERY), len(pieces.executed)


def test_the_best_of_all_layouts_is_not_missed(exhaustive):
    every, executed = exhaustive
    assert len(every) > 20
    pieces = with_given_costs()
    best = search(pieces, pieces.settings, LIMITS, top=3)
    assert [each.time.seconds for each in best] == pytest.approx([each.time.seconds for each in every[:3]])
    assert len(pieces.executed) < executed


def test_nor_is_the_best_of_those_that_delay_weight_gradients():
    """As many as are best in the memory, whatever the job says."""
    limits, changes = Limits(16, 120.0), ("[0,0,0,0]", "training.global_batch_size=32")
    pieces, quick = with_given_costs(*changes), with_given_costs(*changes)
    groups = groups_that_run(pieces.settings, pieces.architecture, 16, 0.92 * limits.memory_gib)
    groups = [each for each in groups if each.pipeline >= 4]
    every = search(pieces, pieces.settings, limits, top=EVERY, groups=groups)
    best = search(quick, quick.settings, limits, top=3, groups=groups)
    assert [each.time.seconds for each in best] == pytest.approx([each.time.seconds for each in every[:3]])
    assert len(quick.executed) < len(pieces.executed)
    assert best[0].settings.parallel.delayed_weight_gradients == [0, 1, 2, 3]
    assert min(each.headroom for each in every) >= limits.headroom


def test_all_leave_the_headroom_and_none_recomputes_what_would_fit(exhaustive):
    every, _ = exhaustive
    pieces = with_given_costs()
    assert min(each.headroom for each in every) >= LIMITS.headroom
    recomputing = [each for each in every if overrides(each.settings.model, pieces.settings.model)]
    assert len(recomputing) > 5
    for each in recomputing:
        plain = with_recompute(each.settings, "none", vision=False)
        assert fit(pieces, plain, LIMITS.world_size, memory_gib=LIMITS.memory_gib).headroom < LIMITS.headroom


def test_a_search_may_be_held_to_some_groups(exhaustive):
    every, _ = exhaustive
    groups = groups_of(every[-1].settings.parallel)
    assert groups != groups_of(every[0].settings.parallel)
    pieces = with_given_costs()
    (best,) = search(pieces, pieces.settings, LIMITS, top=1, groups=[groups])
    assert groups_of(best.settings.parallel) == groups


def test_where_nothing_fits_nothing_is_named():
    pieces = with_given_costs()
    assert search(pieces, pieces.settings, Limits(16, 6.0), top=3) == []


def part(forward: float, backward: float) -> StagePart:
    return StagePart(StreamTime(forward, {"matmul": 0.8 * forward}), StreamTime(backward, {"matmul": 0.8 * backward}))


def test_the_least_seconds_are_those_of_a_level_pipeline():
    first, layer, last = part(1, 2), part(1, 2), part(0, 0)
    sizes = {"layers": 7, "micro_batches": 16}
    assert least_seconds(first, layer, last, stages=1, virtual=1, **sizes) == 16 * 24
    # Four stages of 6 seconds each, of which three fill and drain the pipeline.
    level = least_seconds(first, layer, last, stages=4, virtual=1, **sizes)
    assert 0.95 * (16 * 6 + 18) < level <= 16 * 6 + 18
    assert 0.95 * (16 * 6 + 9) < least_seconds(first, layer, last, stages=4, virtual=2, **sizes) <= 16 * 6 + 9
    # A first stage that has more to do than the others decides.
    assert least_seconds(part(10, 20), layer, last, stages=4, virtual=1, **sizes) > 0.95 * 16 * 30


@pytest.mark.parametrize("micro_batches", [4, 8, 32])
@pytest.mark.parametrize("delayed", [[0, 0, 0, 0], [0, 0, 1, 2], [0, 1, 2, 3]])
def test_a_pipeline_that_delays_weight_gradients_takes_no_less_than_the_least(delayed, micro_batches):
    layer = StagePart(StreamTime(1.0), StreamTime(1.0), StreamTime(1.0))
    least = least_seconds(StagePart(), layer, StagePart(), layers=8, stages=4, virtual=1, micro_batches=micro_batches)
    # The first stage, which sends no gradients on, makes its own at once.
    simulated = simulate(
        [[2.0]] * 4, [[4.0], *[[2.0]] * 3], micro_batches, gradients=[0.0, 2.0, 2.0, 2.0], delayed=delayed
    )
    assert least <= simulated.seconds
    assert least >= 0.8 * simulated.seconds


def test_longer_rows_take_no_less_than_a_short_one_and_most_of_its_work():
    longer = in_longer_rows(part(1, 2), 2)
    assert longer.forward.seconds == pytest.approx(1.36) and longer.backward.seconds == pytest.approx(2.72)
    assert in_longer_rows(part(1, 2), 1).forward.seconds == 1


@pytest.mark.slow
@pytest.mark.parametrize(
    "config, gpus",
    [
        ("sft_qwen3_vl_2b", 8),
        ("dpo_qwen3_vl_32b", 32),
        ("sft_qwen3_vl_32b", 32),
        ("sft_qwen3_vl_235b_a22b", 256),
        ("dpo_qwen3_vl_235b_a22b", 256),
    ],
)
def test_a_search_ranks_no_worse_than_the_shipped_layout(config, gpus):
    with of_config(config) as pieces:
        given = fit(pieces, pieces.settings, gpus)
        best = search(pieces, pieces.settings, Limits(gpus, H100.memory_gib), top=1)
    assert best and best[0].time.seconds <= 1.001 * given.time.seconds
