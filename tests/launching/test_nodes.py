"""On which nodes a job is started again: the decision alone."""

import pytest

from editcaption_mega.launching.nodes import BatchLayout, NodeCounts, choose_nodes
from editcaption_mega.settings import ParallelSettings

NODES = [f"n{i}" for i in range(33)]


@pytest.mark.parametrize(
    ("up", "counts", "layout", "nodes"),
    [
        # As many as are wanted: the first ones, whatever the layout.
        (33, NodeCounts(32, 32, 1), None, 32),
        (32, NodeCounts(32, 32, 1), None, 32),
        # One too few: the queue, unless fewer are allowed and known to do.
        (31, NodeCounts(32, 32, 1), BatchLayout(32, 32, 256), 0),
        (31, NodeCounts(32, 16), None, 0),
        # Copies of the model take four nodes of eight ranks: 28 nodes, seven data-parallel ranks of packed rows.
        (31, NodeCounts(32, 16), BatchLayout(32, 32, 256), 28),
        (27, NodeCounts(32, 28), BatchLayout(32, 32, 256), 0),
        # Rows of one sample must divide the batch: four copies, on 16 nodes.
        (31, NodeCounts(32, 1), BatchLayout(32, 32, 256, packing=False), 16),
        (31, NodeCounts(32, 17), BatchLayout(32, 32, 256, packing=False), 0),
        # Interleaved pipelines take several rows at once, and each holds a sample.
        (31, NodeCounts(32, 1), BatchLayout(8, 8, 64, sequence_multiple=4), 16),
        (31, NodeCounts(32, 1), BatchLayout(1, 1, 64), 8),
        (0, NodeCounts(2, 1), BatchLayout(1, 1, 64), 0),
        # A model that no smaller number of nodes holds.
        (3, NodeCounts(4, 1), BatchLayout(32, 32, 64), 0),
    ],
)
def test_the_nodes_of_the_next_start(up, counts, layout, nodes):
    assert list(choose_nodes(NODES[:up], counts, 8, layout)) == NODES[:nodes]


def test_the_nodes_that_are_up_need_not_be_the_first():
    assert choose_nodes(["n0", "n2", "n3"], NodeCounts(2, 2, 1), 8, None) == ["n0", "n2"]


@pytest.mark.parametrize(
    ("environment", "counts", "outlives"),
    [
        ({}, NodeCounts(4, 4, 0), False),
        ({"SPARE_NODES": "", "MIN_NODES": ""}, NodeCounts(4, 4, 0), False),
        ({"SPARE_NODES": "1"}, NodeCounts(3, 3, 1), True),
        ({"MIN_NODES": "2"}, NodeCounts(4, 2, 0), True),
        ({"SPARE_NODES": "1", "MIN_NODES": "1"}, NodeCounts(3, 1, 1), True),
    ],
)
def test_counts_of_nodes(environment, counts, outlives):
    made = NodeCounts.from_environment(environment, 4)
    assert made == counts and made.outlives_nodes == outlives


@pytest.mark.parametrize(
    ("environment", "sentence"),
    [
        (
            {"SPARE_NODES": "4"},
            "SPARE_NODES is '4', expected the number of nodes of the job's 4 that wait, from 0 to 3",
        ),
        ({"SPARE_NODES": "one"}, "SPARE_NODES is 'one', expected"),
        (
            {"MIN_NODES": "0"},
            "MIN_NODES is '0', expected the number of nodes with which the job may go on, from 1 to 4",
        ),
        ({"SPARE_NODES": "1", "MIN_NODES": "4"}, "MIN_NODES is '4', expected .* from 1 to 3"),
    ],
)
def test_counts_that_an_allocation_has_no_room_for(environment, sentence):
    with pytest.raises(ValueError, match=sentence):
        NodeCounts.from_environment(environment, 4)


def test_what_is_noted_and_what_is_none():
    assert BatchLayout.parse({"rank_multiple": 4, "model_parallel_size": 2, "global_batch_size": 8}) == BatchLayout(
        4, 2, 8
    )
    assert BatchLayout.parse({}) is None and BatchLayout.parse({"tensor": 2}) is None


def test_a_layout_fits_the_numbers_of_ranks_that_the_settings_accept():
    parallel = ParallelSettings(
        tensor_model_parallel_size=2, pipeline_model_parallel_size=3, expert_model_parallel_size=4,
        expert_tensor_parallel_size=1,
    )  # fmt: skip
    layout = BatchLayout(parallel.rank_multiple, parallel.model_parallel_size, 64)
    assert parallel.model_parallel_size == 6
    for ranks in range(1, 49):
        try:
            accepted = parallel.data_parallel_size(ranks) <= 64
        except ValueError:
            accepted = False
        assert layout.fits(ranks) == accepted
