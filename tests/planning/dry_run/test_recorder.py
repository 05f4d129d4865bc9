"""What the recorder of a step without values sees: waits of the host, tensors of two devices, kinds of memory."""

import pytest
import torch

from editcaption_mega.kernels import expert_order, rms_norm, sum_rows, swiglu
from editcaption_mega.kernels.products import add_product
from editcaption_mega.planning.dry_run.operations import communication
from editcaption_mega.planning.dry_run.recorder import INPUTS, HostSync, StepRecorder, memory_kind

META = torch.device("meta")


def seen(work) -> StepRecorder:
    with StepRecorder() as recorder:
        tensor = torch.empty(4, 4, device=META)
        recorder.start()
        work(tensor)
    return recorder


WAITS = {
    "item": lambda x: x[0, 0].item(),
    "float": lambda x: float(x[0, 0]),
    "truth": lambda x: bool((x > 0).any()),
    "equal": lambda x: torch.equal(x, x),
    "tolist": lambda x: x.tolist(),
    "cpu": lambda x: x.cpu(),
    "to the host": lambda x: x.to("cpu", torch.float64),
    "onto the host's": lambda x: torch.zeros(4, 4).copy_(x),
    "to the device": lambda x: torch.ones(3).to(META),
    "onto the device's": lambda x: x.copy_(torch.ones(4, 4)),
}
NO_WAITS = {
    "non-blocking to the host": lambda x: x.to("cpu", non_blocking=True),
    "non-blocking onto the host's": lambda x: torch.zeros(4, 4).copy_(x, non_blocking=True),
    "non-blocking to the device": lambda x: torch.ones(3).to(META, non_blocking=True),
    "non-blocking onto the device's": lambda x: x.copy_(torch.ones(4, 4), non_blocking=True),
    "on the device": lambda x: x.to(torch.float64).copy_(x),
    "nothing to copy": lambda x: torch.ones(0).to(META),
    "a number of the host": lambda x: x * 2 + torch.tensor(1.0),
    "on the host": lambda x: torch.ones(3).tolist(),
}


@pytest.mark.parametrize("kind", WAITS)
def test_what_needs_a_value_or_blocks_is_a_wait(kind):
    recorder = seen(WAITS[kind])
    ((sync, count),) = recorder.host_syncs.items()
    assert count == 1
    assert sync.where.startswith("test_recorder.py:"), "the place that asked"
    assert [step.name for step in recorder.phase.steps].count("sync") == 1


@pytest.mark.parametrize("kind", NO_WAITS)
def test_what_does_not_block_is_none(kind):
    assert not seen(NO_WAITS[kind]).host_syncs


def test_what_the_host_gets_for_a_value_lets_the_step_go_on():
    got = []
    seen(lambda x: got.extend([x[0, 0].item(), bool(torch.isnan(x).any()), x.sum().cpu().item()]))
    assert got == [1.0, False, 1.0]


def test_operators_that_mix_devices_are_noticed():
    """Indexing takes indices of the host, which CUDA then copies."""
    recorder = seen(lambda x: x[torch.tensor([1, 2])])
    ((mixed, count),) = recorder.mixed.items()
    assert count == 1 and "index" in mixed.what and mixed.where.startswith("test_recorder.py:")
    assert not seen(lambda x: x[torch.tensor([1, 2]).to(META, non_blocking=True)] * torch.tensor(2.0)).mixed


def test_bounds_that_the_host_has_put_on_the_device_are_known():
    known = {}

    def work(x):
        for name, values in {
            "bounds": torch.tensor([0, 3, 7], dtype=torch.int32),
            "floats": torch.ones(3),
            "data": torch.zeros(5000, dtype=torch.int64),
        }.items():
            known[name] = values.to(META, non_blocking=True)
        known["computed"] = known["bounds"] + 1

    recorder = seen(work)
    values = {name: recorder._values_of(tensor) for name, tensor in known.items()}
    assert values == {"bounds": [0, 3, 7], "floats": None, "data": None, "computed": None}


def test_memory_is_named_by_the_module_that_made_it_and_by_where_it_came_from():
    with StepRecorder() as recorder:
        recorder.start()
        held = [torch.ones(256).to(META, non_blocking=True)]
        recorder.modules.append("vision.blocks.0.mlp")
        held.append(torch.empty(512, device=META))
        recorder.modules.append("language.decoder.layers.3.mlp.experts")
        held.append(torch.empty(1024, device=META))
        recorder.modules.clear()
        with recorder.running("backward", 1, 2):
            held.append(torch.empty(2048, device=META))
    assert recorder.memory.by_kind == {INPUTS: 1024, "vision": 2048, "experts": 4096, "backward": 8192}
    assert [str(phase) for phase in recorder.phases] == ["step", "backward 2 of chunk 1", "step"]


def test_each_part_of_a_model_has_its_kind_of_memory():
    layer = "language.decoder.layers.0."
    kinds = {
        "vision.blocks.0.attention": "vision",
        layer + "self_attention.core_attention": "attention",
        layer + "mlp.linear_fc1": "feed-forward",
        layer + "mlp.experts": "experts",
        layer + "mlp.router": "experts",
        "language.embedding": "embedding",
        "language.output_layer": "logits",
        layer + "input_layernorm": "activations",
    }
    assert {module: memory_kind(module) for module in kinds} == kinds


def test_a_start_keeps_the_memory_and_forgets_the_rest():
    with StepRecorder() as recorder:
        weight = torch.empty(256, device=META)
        weight.sum().item()
        recorder.start()
    assert not recorder.host_syncs and not recorder.phase.steps
    assert recorder.memory.now == recorder.memory.peak.total == 1024


def test_an_unknown_collective_is_named():
    with pytest.raises(RuntimeError, match=r"c10d::gather_ is a collective that .*operations\.py does not know"):
        communication(torch.ops.c10d.gather_.default, [])


def test_places_are_equal_where_they_are_the_same():
    recorder = seen(lambda x: [x[0, i].item() for i in range(3)])
    assert list(recorder.host_syncs.values()) == [3]
    assert isinstance(next(iter(recorder.host_syncs)), HostSync)


def test_what_changes_lists_of_tensors_in_place_is_priced():
    """It returns nothing, as the optimizer's update does; lists of the host are none of the device's work."""
    recorder = seen(lambda x: torch._foreach_mul_([x, x], 2.0))
    assert [(step.name, step.bytes) for step in recorder.phase.steps] == [("_foreach_mul_", 2 * 64)]
    assert not seen(lambda x: torch._foreach_mul_([torch.ones(4)], 2.0)).phase.steps


def test_kernels_of_the_layers_are_priced_by_the_bytes_that_they_move():
    tokens, experts, top_k, hidden = 64, 16, 4, 32
    with StepRecorder() as recorder:
        chosen = torch.empty(tokens, experts, dtype=torch.bool, device=META)
        x = torch.empty(tokens, hidden, dtype=torch.bfloat16, device=META, requires_grad=True)
        weight = torch.empty(hidden, dtype=torch.bfloat16, device=META, requires_grad=True)
        recorder.start()
        order = expert_order(chosen, top_k)
        indices = order.token_of_row[:, None], order.rows_of_token
        rows = sum_rows(rms_norm(x, weight, 1e-6), *indices)
        back = sum_rows(torch.cat((swiglu(rows), swiglu(rows)), -1), *reversed(indices))
        back.backward(torch.empty_like(back))
    steps = {step.name: step for step in recorder.phase.steps if step.name not in ("cat", "add", "slice", "detach")}
    token_bytes, index_bytes = 2 * tokens * hidden, 4 * tokens * top_k
    assert steps["expert_order"].launches == 3
    # The last ones: backward, the rows are added up again, and the norm's gradient with its parts of the weight's.
    assert steps["sum_rows"].bytes == (top_k + 1) * token_bytes + index_bytes
    assert steps["swiglu"].bytes == 1.5 * top_k * token_bytes
    assert steps["swiglu_gradient"].bytes == 2.5 * top_k * token_bytes
    parts = 2 * 4 * hidden * min(528, tokens)
    assert steps["rms_norm_gradient"].bytes == 3 * token_bytes + 4 * tokens + 2 * 2 * hidden + parts
    assert steps["rms_norm_gradient"].launches == 2


def test_a_product_that_adds_to_a_buffer_reads_and_writes_it_once():
    total, a, b = (
        torch.empty(8, 4, device=META),
        *(torch.empty(6, n, dtype=torch.bfloat16, device=META) for n in (8, 4)),
    )
    recorder = seen(lambda _: add_product(total, a.t(), b))
    (step,) = (step for step in recorder.phase.steps if step.flops)
    assert (step.kind, step.flops, step.bytes) == ("matmul", 2 * 8 * 4 * 6, 2 * total.nbytes + a.nbytes + b.nbytes)
    out = torch.empty(8, 4, dtype=torch.bfloat16, device=META)
    (step,) = seen(lambda _: torch.mm(a.t(), b, out=out)).phase.steps
    assert step.bytes == out.nbytes + a.nbytes + b.nbytes


def test_a_view_costs_nothing_whatever_its_schema_says():
    recorder = seen(lambda x: torch.ops.aten._unsafe_view(x, [2, 8]))
    assert recorder.phase.steps == []
