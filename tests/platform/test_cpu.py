"""What Megatron-Core asks of CUDA and a prepared CPU answers: the contract of each shim of platform/cpu.py."""

import numpy as np
import pytest
import torch

from editcaption_mega import platform
from editcaption_mega.platform import cpu
from tests.helpers.ranks import on_ranks

pytestmark = pytest.mark.skipif(torch.cuda.is_available(), reason="on CUDA nothing is replaced")
CPU = torch.device("cpu")


@pytest.fixture(autouse=True)
def prepared():
    platform.prepare()


def test_the_current_device_can_be_given_to_factories():
    assert torch.cuda.current_device() == CPU
    assert torch.zeros(2, device=torch.cuda.current_device()).device == CPU


def test_streams_and_events_do_nothing_in_order():
    stream, event = torch.cuda.Stream(priority=-1), torch.cuda.Event(enable_timing=True)
    assert isinstance(torch.cuda.Stream, type) and torch.cuda.current_stream is not torch.cuda.default_stream
    with torch.cuda.stream(stream), stream:
        event.record(stream)
        stream.wait_event(event)
        stream.wait_stream(torch.cuda.current_stream())
        tensor = torch.ones(2)
        tensor.record_stream(stream)
    assert stream.record_event(event) is event and event.query() and stream.query()
    assert event.elapsed_time(stream.record_event()) == 0.0
    for wait in (event.wait, event.synchronize, stream.synchronize, torch.cuda.synchronize, torch.cuda.empty_cache):
        wait()
    torch.cuda.set_device(3)


@pytest.mark.parametrize("device", ["cuda", "cuda:1", 0, torch.device("cuda", 2), "cpu", CPU, None])
def test_literal_devices_are_the_cpu(device):
    for tensor in (
        torch.zeros(2, device=device),
        torch.tensor([1, 2], device=device),
        torch.arange(3, device=device),
        torch.full((2,), 1.5, device=device),
        torch.empty_like(torch.ones(2), device=device),
        torch.randn(2, device=device, pin_memory=True),
    ):
        assert tensor.device == CPU and not tensor.is_pinned()
    if device is not None:
        assert torch.ones(2).to(device=device, dtype=torch.float64).dtype == torch.float64
    if isinstance(device, str | torch.device):
        assert torch.ones(2).to(device, torch.bfloat16).dtype == torch.bfloat16


def test_other_devices_and_other_meanings_stay():
    assert torch.zeros(2, device="meta").is_meta and torch.ones(2).to("meta").is_meta
    with torch.device("meta"):
        assert torch.zeros(2).is_meta and torch.arange(3).is_meta
    assert torch.ones(2).to(torch.float16).dtype == torch.float16
    assert torch.ones(2).to(torch.zeros(1, dtype=torch.int32)).dtype == torch.int32
    tensor, module = torch.ones(2), torch.nn.Linear(2, 2)
    assert tensor.cuda() is tensor and tensor.pin_memory() is tensor and module.cuda() is module


def test_types_have_the_names_that_the_optimizer_sorts_by():
    assert torch.ones(1).type() == "torch.cuda.FloatTensor"
    assert torch.ones(1, dtype=torch.bfloat16).type() == "torch.cuda.BFloat16Tensor"
    assert torch.ones(1).type(torch.float64).dtype == torch.float64


def test_the_random_state_of_the_device_is_that_of_the_cpu():
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker, model_parallel_cuda_manual_seed

    torch.cuda.manual_seed(5)
    state, first = torch.cuda.get_rng_state(), torch.rand(3)
    torch.cuda.set_rng_state(state)
    assert torch.equal(torch.rand(3), first)
    torch.manual_seed(5)
    assert torch.equal(torch.rand(3), first)

    platform.initialize(platform.Layout(), seed=1)
    try:
        model_parallel_cuda_manual_seed(7)
        outside = torch.get_rng_state()
        with get_cuda_rng_tracker().fork():  # a generator of its own for each tensor-parallel rank
            inside = torch.rand(3)
        assert torch.equal(torch.get_rng_state(), outside)
        model_parallel_cuda_manual_seed(7)
        with get_cuda_rng_tracker().fork():
            assert torch.equal(torch.rand(3), inside)
    finally:
        platform.destroy()


def test_split_sizes_are_here_already():
    from megatron.core.transformer.moe import token_dispatcher

    sizes = torch.tensor([2, 0, 3])
    assert token_dispatcher.maybe_move_tensor_to_cpu(sizes) is sizes
    numbers = token_dispatcher.maybe_move_tensor_to_cpu(sizes, as_numpy=True, record_stream=True)
    assert isinstance(numbers, np.ndarray) and numbers.tolist() == [2, 0, 3]
    assert token_dispatcher.maybe_move_tensor_to_cpu(None, as_numpy=True) is None


def collect_unevenly(rank: int, sizes: list[int]):
    from megatron.core.tensor_parallel import mappings

    platform.prepare()
    group = torch.distributed.group.WORLD
    part = torch.full((sizes[rank], 2), float(rank))
    gathered = mappings._gather_along_first_dim(part, group, sizes)
    whole = torch.arange(8.0).view(4, 2) * (rank + 1)
    scattered = mappings._reduce_scatter_along_first_dim(whole, group, sizes)
    even = mappings._gather_along_first_dim(torch.full((1, 2), float(rank)), group, [1, 1, 1])
    return gathered.tolist(), scattered.tolist(), even.tolist()


def test_uneven_collectives_give_what_even_ones_would(tmp_path):
    """Gather: the parts of all ranks behind each other; reduce-scatter: each rank its own part of the sum."""
    sizes = [3, 0, 1]
    total = (torch.arange(8.0).view(4, 2) * 6).split(sizes)
    for rank, (gathered, scattered, even) in enumerate(on_ranks(collect_unevenly, tmp_path, sizes, count=3)):
        assert gathered == [[0.0, 0.0]] * 3 + [[2.0, 2.0]]
        assert scattered == total[rank].tolist()
        assert even == [[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]


def reduce_and_gather(rank: int):
    """As Megatron does with gradients and weights -> both, and whether a collective ran."""
    import megatron.core.distributed.param_and_grad_buffer as buffers

    platform.prepare()
    group = torch.distributed.group.WORLD
    whole = torch.arange(4.0) * (rank + 1)
    part = whole.view(group.size(), -1)[rank]
    with torch.profiler.profile() as profile:
        with buffers._coalescing_manager(group, async_ops=True) as work:
            buffers.dist_reduce_scatter_func(part, whole, op=torch.distributed.ReduceOp.SUM, group=group, async_op=True)
        work.wait()
        reduced = part.tolist()
        with buffers._coalescing_manager(group, async_ops=False):
            buffers.dist_all_gather_func(whole, part, group=group, async_op=False)
    return reduced, whole.tolist(), any("c10d" in event.name for event in profile.events())


def test_a_rank_that_is_alone_copies_nothing_to_reduce_its_gradients(tmp_path):
    (tmp_path / "two").mkdir()
    assert on_ranks(reduce_and_gather, tmp_path, count=1) == [([0.0, 1.0, 2.0, 3.0], [0.0, 1.0, 2.0, 3.0], False)]
    first, second = on_ranks(reduce_and_gather, tmp_path / "two", count=2)
    assert first == ([0.0, 3.0], [0.0, 3.0, 6.0, 9.0], True) and second == ([6.0, 9.0], [0.0, 3.0, 6.0, 9.0], True)


def test_nothing_is_compiled():
    compiled = []

    def backend(graph, inputs):
        compiled.append(graph)
        return graph.forward

    @torch.compile(backend=backend)
    def double(x):
        return 2 * x

    assert torch.equal(double(torch.ones(2)), torch.full((2,), 2.0)) and compiled == []


def test_kernels_of_other_libraries_are_not_taken(monkeypatch):
    """As Megatron has them where Transformer Engine is installed."""
    import megatron.core.optimizer as optimizers
    from megatron.core.optimizer import clip_grads, optimizer
    from megatron.core.transformer.moe import moe_utils

    def of_a_gpu(*arguments, **options):
        raise AssertionError("a kernel of another library")

    monkeypatch.setattr(optimizers, "USING_PYTORCH_OPTIMIZER", False)
    monkeypatch.setattr(moe_utils, "te_general_gemm", of_a_gpu)
    for module in (clip_grads, optimizer):
        monkeypatch.setattr(module, "multi_tensor_applier", of_a_gpu)
        monkeypatch.setattr(module, "multi_tensor_scale_impl", of_a_gpu)
    cpu._kernels_of_other_libraries()
    weight = torch.nn.Parameter(torch.zeros(2))
    weight.grad = torch.tensor([3.0, 4.0])
    clip_grads.clip_grad_by_total_norm_fp32([weight], 1.0, 5.0)
    assert weight.grad.tolist() == pytest.approx([0.6, 0.8], rel=1e-5)
    copies = [torch.zeros(2)]
    optimizer._multi_tensor_copy_this_to_that([weight.grad], copies, torch.zeros(1, dtype=torch.int))
    assert copies[0].tolist() == weight.grad.tolist()
    logits = moe_utils.router_gating_linear(torch.ones(1, 3), torch.full((4, 3), 2.0), None, torch.float32)
    assert logits.tolist() == [[6.0] * 4] and optimizers.USING_PYTORCH_OPTIMIZER
