"""Seconds of operations and communications, against values computed by hand and a layer's budget made by hand."""

from dataclasses import replace

import pytest

from editcaption_mega.planning.timing.cost import Communication, Operation, stream_time
from editcaption_mega.planning.timing.hardware import load_hardware

NODE = tuple(range(8))


@pytest.fixture(scope="module")
def h100():
    return load_hardware("h100")


def product(rows, columns, inner, kind="matmul", name="product"):
    elements = rows * inner + inner * columns + rows * columns
    return Operation(name, kind, 2 * rows * columns * inner, 2 * elements, rows, columns, inner)


@pytest.mark.parametrize(
    ("operation", "seconds"),
    [
        (product(8192, 8192, 8192), 2 * 8192**3 / 700e12),
        (product(8192, 1280, 5120), 2 * 8192 * 1280 * 5120 / 620e12),
        (product(8192, 5120, 512), 2 * 8192 * 5120 * 512 / 500e12),
        # So thin that its bytes take longer than its products would.
        (product(8192, 5120, 64), 2 * (8192 * 64 + 64 * 5120 + 8192 * 5120) / 2.8e12),
        (Operation("router", "matmul_fp32", 2 * 8192 * 128 * 4096, 1), 2 * 8192 * 128 * 4096 / 50e12),
        (Operation("experts", "grouped", 1e12, 1, rows=1024), 1e12 / 480e12),
        (Operation("experts", "grouped", 1e12, 1, rows=300), 1e12 / 350e12),
        (Operation("experts", "grouped", 1e6, 2.8e9, rows=4), 1e-3),
        (Operation("attention", "attention", 1e12, 1, rows=2700, columns=128), 1e12 / 298e12),
        (Operation("attention", "attention_backward", 1e12, 1, rows=2700, columns=128), 1e12 / 240e12),
        (Operation("vision", "attention", 1e12, 1, rows=4096, columns=72), 1e12 / (319e12 * 72 / 96)),
        (Operation("norm", "copy", 1e15, 2.8e9), 1e-3),
        (Operation("pixels", "host_copy", bytes=5e9), 0.1),
        (Operation("view", "host"), 0.0),
        (Operation("item", "sync"), 0.0),
    ],
)
def test_an_operation_takes_the_longer_of_computing_and_moving(h100, operation, seconds):
    assert operation.seconds(h100) == pytest.approx(seconds)


@pytest.mark.parametrize(
    ("communication", "seconds"),
    [
        (Communication("all_gather", 330e9, NODE), 7 / 8 + 10e-6),
        (Communication("reduce_scatter", 330e9, NODE), 7 / 8 + 10e-6),
        (Communication("all_reduce", 330e9, NODE[:4]), 2 * 3 / 4 + 10e-6),
        (Communication("broadcast", 330e9, NODE), 1 + 10e-6),
        (Communication("all_to_all", 300e9, NODE), 7 / 8 + 10e-6),
        (Communication("send", 300e9, (0, 1)), 1 + 10e-6),
        (Communication("recv", 45e9, (0, 8)), 1 + 15e-6),
        # One rank per node: its own port. Four per node: four ports, of 45e9 each, still less than NVLink.
        (Communication("reduce_scatter", 45e9, (0, 8, 16, 24)), 3 / 4 + 25e-6),
        (Communication("all_gather", 180e9, (0, 1, 2, 3, 8, 9, 10, 11)), 7 / 8 + 15e-6),
        (Communication("all_gather", 330e9, tuple(range(16))), 15 / 16 + 15e-6),
        # 32 ranks on four nodes: three quarters of the bytes leave the node.
        (Communication("all_to_all", 45e9, tuple(range(32))), 3 / 4 + 25e-6),
        (Communication("all_gather", 1e12, (3,)), 0.0),
    ],
)
def test_a_communication_takes_what_its_slowest_link_takes(h100, communication, seconds):
    assert communication.seconds(h100) == pytest.approx(seconds)


def test_a_communication_names_its_link(h100):
    assert Communication("all_gather", 1, NODE).link(h100) == "nvlink"
    assert Communication("all_gather", 1, (7, 8)).link(h100) == "infiniband"


# One layer of Qwen3-VL-32B at TP8, a row of 8,192 tokens in segments of 2,700: its operations, and what an estimate by
# hand gave it on an H100 (milliseconds): products 1.61, attention 0.15, tensor-parallel communication 0.89, the eager
# norms, rotary embedding and SwiGLU 0.48, together 3.13.
TOKENS, HIDDEN, FFN, HEADS, KV_HEADS, HEAD, TP = 8192, 5120, 25600, 64, 8, 128, 8
SHARD = TOKENS // TP * HIDDEN  # elements of the sequence-parallel part
NORM_BYTES = 36  # per element: eight eager kernels, fp32 between them


def gather(kind):
    return Communication(kind, 2 * TOKENS * HIDDEN, NODE)


def dense_layer():
    queries, keys = TOKENS * HEADS * HEAD // TP, TOKENS * KV_HEADS * HEAD // TP
    gate = TOKENS * FFN // TP
    return [
        Operation("norm", "copy", bytes=NORM_BYTES * SHARD, launches=8),
        gather("all_gather"),
        product(TOKENS, (HEADS + 2 * KV_HEADS) * HEAD // TP, HIDDEN),
        Operation("query and key norm", "copy", bytes=NORM_BYTES * (queries + keys), launches=16),
        Operation("rotary", "copy", bytes=30 * (queries + keys), launches=20),
        Operation(
            "attention",
            "attention",
            4 * HEADS / TP * HEAD * TOKENS * 2700 / 2,
            2 * (2 * queries + 2 * keys),
            2700,
            HEAD,
        ),
        product(TOKENS, HIDDEN, HEADS * HEAD // TP),
        gather("reduce_scatter"),
        Operation("residual", "copy", bytes=6 * SHARD),
        Operation("norm", "copy", bytes=NORM_BYTES * SHARD, launches=8),
        gather("all_gather"),
        product(TOKENS, 2 * FFN // TP, HIDDEN),
        Operation("swiglu", "copy", bytes=10 * gate, launches=2),
        product(TOKENS, HIDDEN, FFN // TP),
        gather("reduce_scatter"),
        Operation("residual", "copy", bytes=6 * SHARD),
    ]


def test_a_dense_layer_takes_what_was_estimated_by_hand(h100):
    time = stream_time(dense_layer(), h100)
    milliseconds = {kind: 1000 * seconds for kind, seconds in time.by_kind.items()}
    assert milliseconds["matmul"] == pytest.approx(1.61, rel=0.1)
    assert milliseconds["attention"] == pytest.approx(0.15, rel=0.1)
    assert milliseconds["all_gather"] + milliseconds["reduce_scatter"] == pytest.approx(0.89, rel=0.1)
    assert milliseconds["copy"] == pytest.approx(0.48, rel=0.15)
    assert 1000 * sum(time.by_kind.values()) == pytest.approx(3.13, rel=0.05)


def test_the_host_is_the_floor_of_a_stream_of_small_operations(h100):
    small = [Operation("add", "copy", bytes=1000)] * 500
    time = stream_time(small, h100)
    assert time.seconds == pytest.approx(500 * 10e-6, rel=1e-3)
    assert time.starved == pytest.approx(time.seconds, rel=1e-3)
    views = [Operation("view", "host")] * 500
    assert stream_time(views, h100).seconds == pytest.approx(500 * 10e-6)


def test_the_host_runs_ahead_of_large_operations(h100):
    large = [product(8192, 8192, 8192)] * 100
    time = stream_time(large, h100)
    assert time.seconds == pytest.approx(100 * 2 * 8192**3 / 700e12 + 10e-6)
    assert time.starved == pytest.approx(10e-6)
    # What the host does meanwhile costs nothing.
    with_views = stream_time([step for op in large for step in (op, *[Operation("view", "host")] * 20)], h100)
    assert with_views.seconds == pytest.approx(time.seconds)


def test_a_sync_empties_the_queue(h100):
    large, small = product(8192, 8192, 8192), Operation("add", "copy", bytes=1000)
    without = stream_time([large] + [small] * 50, h100)
    with_sync = stream_time([large, Operation("item", "sync")] + [small] * 50, h100)
    assert with_sync.seconds - without.seconds == pytest.approx(
        20e-6 + 11e-6 + 50 * 10e-6 - 50 * 1000 / 2.8e12, rel=0.05
    )


def test_communication_beside_products_costs_what_a_wait_for_it_takes(h100):
    work, arrived = product(8192, 8192, 8192), Operation("wait", "wait", launches=0, within=1)
    seconds = work.seconds(h100)
    short = Communication("all_gather", 330e9 * seconds / 2, NODE, within=1)  # about half as long as the product
    long = replace(short, bytes=4 * short.bytes)
    covered = stream_time([short, work, arrived], h100)
    assert covered.by_kind.keys() == {"matmul"}
    # The product is slower while the other one runs.
    assert covered.seconds == pytest.approx(seconds + 0.15 * short.seconds(h100), rel=0.02)
    waited = stream_time([long, work, arrived], h100)
    assert waited.seconds == pytest.approx(long.seconds(h100), rel=0.02)
    assert waited.by_kind["all_gather"] == pytest.approx(long.seconds(h100) - 1.15 * seconds, rel=0.02)
    # One after another on the link, and behind the operations before.
    queued = stream_time([work, long, replace(long, within=2), replace(arrived, within=2)], h100)
    assert queued.seconds == pytest.approx(seconds + 2 * long.seconds(h100), rel=0.02)
    assert stream_time([work, replace(long, within=0), arrived], h100).seconds == pytest.approx(
        seconds + long.seconds(h100), rel=0.02
    )


def test_nothing_takes_no_time(h100):
    assert stream_time([], h100).seconds == 0
