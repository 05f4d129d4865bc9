"""What a search compares runs: layouts as the model and the batch allow them, splits that hold all layers."""

import math
from dataclasses import replace

import pytest

from editcaption_mega.model.layout_check import check_layout
from editcaption_mega.model.released import released_architecture
from editcaption_mega.planning.layouts.choices import (
    Groups,
    delays,
    groups_that_run,
    least_states,
    overrides,
    row_lengths,
    splits,
    tilted,
    with_groups,
    with_recompute,
    with_split,
)
from editcaption_mega.planning.workload import Workload
from editcaption_mega.settings import AdapterSettings, load_job
from editcaption_mega.training.adapter_state import chosen_adapters
from tests.helpers import ROOT


@pytest.fixture(scope="module")
def settings():
    return load_job(ROOT / "configs/sft_qwen3_vl_235b_a22b.yaml", [])


@pytest.fixture(scope="module")
def architecture():
    return released_architecture("Qwen3-VL-235B-A22B")


def test_every_layout_is_one_that_the_code_takes(settings, architecture):
    every = groups_that_run(settings, architecture, 256, 70)
    assert Groups(4, 8, 8, 1) in every
    for groups in every:
        job = with_groups(settings, groups)
        job.validate()
        check_layout(architecture, job.parallel)
        assert job.parallel.data_parallel_size(256) <= settings.training.global_batch_size
    assert not [groups for groups in every if architecture.num_kv_heads % groups.tensor]


def test_experts_are_cut_by_the_tensor_size_too_or_not_at_all(settings, architecture):
    """And no layout is lost for it: each size of the other groups comes with experts that are not cut."""
    every = groups_that_run(settings, architecture, 256, math.inf)
    assert {groups.expert_tensor for groups in every if groups.tensor == 4} == {1, 4}
    assert all(groups.expert_tensor in (1, groups.tensor) for groups in every)
    assert {replace(groups, expert_tensor=1) for groups in every} <= set(every)
    dense = groups_that_run(settings, released_architecture("Qwen3-VL-32B"), 32, 70)
    assert dense and all(groups.expert_tensor == groups.tensor for groups in dense)


def test_sizes_that_differ_are_those_that_a_user_would_change():
    given = Groups(4, 8, 8, 1)
    assert [given.distance(Groups(*sizes)) for sizes in ((4, 8, 8, 1), (2, 8, 8, 1), (4, 8, 8, 4), (2, 4, 8, 2))] == [
        0, 1, 1, 3,
    ]  # fmt: skip
    assert Groups(4, 8, 1, 4).distance(Groups(2, 8, 1, 2)) == 1, "both cut experts as the tensor size says"


def test_weights_that_exceed_the_memory_are_left_out(settings, architecture):
    assert groups_that_run(settings, architecture, 256, 5) == []
    few = groups_that_run(settings, architecture, 256, 20)
    assert few and max(least_states(settings, architecture, groups, 256) for groups in few) < 20 * 2**30
    # All 235 billion parameters: 6 bytes of each on its rank, 12 over all of them.
    alone = least_states(settings, architecture, Groups(1, 1, 1, 1), 1)
    assert alone == pytest.approx(18 * 235.7e9, rel=0.01)


def test_frozen_weights_take_two_bytes_each_and_adapters_eighteen(settings, architecture):
    adapted = replace(settings, model=replace(settings.model, adapters=AdapterSettings(rank=16)))
    size = chosen_adapters(adapted, architecture).size
    assert 2.5e9 < size < 2.8e9  # 1.1 % of the model's parameters
    alone = least_states(adapted, architecture, Groups(1, 1, 1, 1), 1)
    assert alone == pytest.approx(2 * 235.7e9 + 18 * size, rel=0.01)
    assert groups_that_run(settings, architecture, 16, 70) == []
    few = groups_that_run(adapted, architecture, 16, 70)
    assert few and all(groups.expert * groups.expert_tensor * groups.pipeline >= 8 for groups in few)


@pytest.mark.parametrize("stages, virtual", [(1, 1), (2, 1), (2, 2), (4, 1), (4, 3), (8, 1), (8, 2), (16, 1), (16, 4)])
@pytest.mark.parametrize("first, last", [(0.1, 0.1), (5.0, 0.5), (9.0, 2.0)])
def test_splits_hold_every_layer_and_spare_the_first_stage(settings, stages, virtual, first, last):
    made = list(splits(94, stages, virtual, first, last))
    assert made
    for counts in made:
        assert sum(counts) == 94
        job = with_split(with_groups(settings, Groups(4, stages, 8, 1), virtual), counts)
        job.validate()
    if stages > 2 and first < 94 / stages:
        of_first = {sum(counts[0::stages]) for counts in made}
        assert max(virtual - 1, round((94 + first + last) / stages - first)) in of_first


def test_rows_hold_whole_samples(settings, architecture):
    lengths = row_lengths(settings, architecture, Workload())
    # As much room for each as in the given rows, but none for one sample more.
    assert lengths == [2880, 5760, 8640]
    wide = replace(settings, data=replace(settings.data, sequence_length=5000))
    assert row_lengths(wide, architecture, Workload()) == [5000, 8012, 10683]


def test_recomputation_is_said_with_settings_that_are_taken(settings):
    for kind, modules, block in (("none", (), 0), ("selective", ("moe_act",), 0), ("full", (), 0), ("full", (), 3)):
        for vision in (False, True):
            job = with_recompute(settings, kind, modules, vision=vision, block=block)
            job.validate()
            chosen = job.model.recompute_vision
            assert (kind == "full" if chosen is None else chosen) == vision


def test_overrides_make_the_same_settings_again(settings):
    job = with_split(with_groups(settings, Groups(2, 8, 32, 1), 2), [5, *[6] * 14, 5])
    job = with_recompute(job, "selective", ("layernorm", "moe_act"), vision=True)
    job = replace(job, data=replace(job.data, sequence_length=2672))
    changes = overrides(job, settings)
    assert load_job(ROOT / "configs/sft_qwen3_vl_235b_a22b.yaml", changes) == job
    assert overrides(settings, settings) == []


@pytest.mark.parametrize(
    ("stages", "virtual", "counts"), [(4, 1, [0, 1, 1, 2]), (2, 1, [0, 0]), (4, 2, None), (1, 1, None)]
)
def test_a_job_that_delays_weight_gradients_does_so_in_each_layout_that_can(stages, virtual, counts):
    pipeline = ["parallel.pipeline_model_parallel_size=4", "parallel.layers_per_chunk=null"]
    without = [*pipeline, "parallel.delayed_weight_gradients=null"]
    config = ROOT / "configs/sft_qwen3_vl_32b.yaml"
    job = load_job(config, [*pipeline, "parallel.delayed_weight_gradients=[0,1,1,2]"])
    groups = Groups(4, stages, 1, 4)
    assert with_groups(job, groups, virtual).parallel.delayed_weight_gradients == counts
    assert with_groups(load_job(config, without), groups, virtual).parallel.delayed_weight_gradients is None


def test_delays_are_compared_where_the_job_has_some(settings):
    def counts(groups: Groups, virtual: int = 1):
        jobs = delays(with_groups(settings, groups, virtual))
        for job in jobs:
            job.validate()
        return [job.parallel.delayed_weight_gradients for job in jobs]

    assert counts(Groups(2, 2, 8, 1)) == [[0, 0], [0, 1]]
    assert counts(Groups(2, 4, 8, 1)) == [[0, 0, 0, 0], [0, 1, 2, 3], [0, 0, 0, 1]]
    given = settings.parallel.delayed_weight_gradients
    assert counts(Groups(2, 8, 8, 1))[0] == given and len(counts(Groups(2, 8, 8, 1))) == 3
    assert counts(Groups(2, 1, 8, 1)) == counts(Groups(2, 8, 8, 1), virtual=2) == [None]


@pytest.mark.parametrize(
    "counts, other",
    [
        ([0, 13, 13, 13, 14, 14, 14, 13], [0, 12, 13, 14, 14, 14, 14, 13]),
        ([5, 6, 6, 7, 5], [5, 5, 7, 7, 5]),
        ([5, 6, 6, 6, 5], None),
        ([5, 6, 7, 7, 5], None),
        ([0, 1, 1, 2, 0], None),
        ([4, 6, 6], None),
        ([8], None),
    ],
)
def test_a_tilted_split_is_as_level_and_holds_as_many_layers(counts, other):
    assert list(tilted(counts, len(counts))) == [counts] + [other] * (other is not None)
    assert list(tilted(counts, 1)) == [counts]
