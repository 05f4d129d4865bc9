"""What Megatron-Core 0.19 assumes of CUDA, answered on a machine without one.

This is the only place in the project that patches anything, and only when there is no GPU. Each function below is
one assumption, with the place in Megatron that makes it. `prepare` calls `install()`, once. Megatron may be imported
before: it looks the names up when it runs, which tests/platform holds for each of them.
"""

import contextlib
import functools
import logging

import torch

# Where tensors go that Megatron puts on the GPU: the CPU, or `meta`, whose tensors have shapes and no values.
_stand_in = torch.device("cpu")


def install(stand_in: torch.device = _stand_in) -> None:
    """Apply every shim. Call it once. stand_in: the device that takes the GPU's place."""
    global _stand_in
    _stand_in = stand_in
    # `jit.py` 21 decorates with torch.compile; compiling small CPU functions costs minutes and gains nothing.
    torch.compiler.set_stance("force_eager")
    _current_device()
    _streams_and_events()
    _device_literals()
    _tensor_type_names()
    _random_state()
    _all_to_all_splits()
    _uneven_collectives()
    _kernels_of_other_libraries()
    if stand_in.type == "cpu":
        _groups_of_one_rank()


class _Event:
    """An event of a device that runs everything in order."""

    def __init__(self, *args, **kwargs): ...
    def record(self, *args, **kwargs): ...
    def wait(self, *args, **kwargs): ...
    def synchronize(self): ...
    def query(self):
        return True

    def elapsed_time(self, other):
        return 0.0


class _Stream:
    """A stream of a device that runs everything in order. A class, because transformers annotates with it."""

    def __init__(self, *args, **kwargs): ...
    def wait_stream(self, *args): ...
    def wait_event(self, *args): ...
    def synchronize(self): ...
    def record_event(self, event=None):
        return event or _Event()

    def query(self):
        return True

    def __enter__(self):
        return self

    def __exit__(self, *error):
        return False


_THE_STREAM = _Stream()


def _current_device() -> None:
    """About 200 uses of `torch.cuda.current_device()`, all as the `device=` of a new tensor."""
    torch.cuda.current_device = lambda: _stand_in


def _streams_and_events() -> None:
    """`pipeline_parallel/schedules.py`, `moe/token_dispatcher.py`, `distributed/param_and_grad_buffer.py`."""
    torch.cuda.Stream = _Stream
    torch.cuda.Event = _Event
    # Distinct functions: dynamo's rule table rejects one object under two torch names.
    torch.cuda.current_stream = lambda *args, **kwargs: _THE_STREAM
    torch.cuda.default_stream = lambda *args, **kwargs: _THE_STREAM
    torch.cuda.stream = lambda stream=None: contextlib.nullcontext()
    torch.cuda.synchronize = lambda *args, **kwargs: None
    torch.cuda.empty_cache = lambda: None
    torch.cuda.set_device = lambda *args, **kwargs: None
    torch.Tensor.record_stream = lambda self, stream: None


def _replaced(device):
    if isinstance(device, int) and not isinstance(device, bool):
        return _stand_in
    if isinstance(device, str) and device.startswith("cuda"):
        return _stand_in
    if isinstance(device, torch.device) and device.type == "cuda":
        return _stand_in
    return device


def _device_literals() -> None:
    """Literal `device="cuda"`, `.cuda()` and `pin_memory=True` in optimizer, DDP, MoE and router."""
    import torch.utils._device

    # Cached before the factories are wrapped, else `with torch.device("meta")` no longer knows them.
    torch.utils._device._device_constructors()
    factories = "tensor zeros ones empty full arange rand randn randint zeros_like ones_like empty_like full_like"
    for name in (factories + " as_tensor eye linspace").split():
        setattr(torch, name, _redirected(getattr(torch, name)))
    torch.Tensor.cuda = lambda self, *args, **kwargs: self.to(_stand_in)
    torch.nn.Module.cuda = lambda self, *args, **kwargs: self.to(_stand_in)
    torch.Tensor.pin_memory = lambda self, *args, **kwargs: self
    original = torch.Tensor.to

    def to(self, *args, **kwargs):
        if args and isinstance(args[0], str | torch.device):
            args = (_replaced(args[0]), *args[1:])
        if "device" in kwargs:
            kwargs["device"] = _replaced(kwargs["device"])
        return original(self, *args, **kwargs)

    torch.Tensor.to = to


def _redirected(factory):
    @functools.wraps(factory)
    def wrapped(*args, **kwargs):
        if "device" in kwargs:
            kwargs["device"] = _replaced(kwargs["device"])
        if kwargs.get("pin_memory"):
            kwargs["pin_memory"] = False
        return factory(*args, **kwargs)

    return wrapped


def _tensor_type_names() -> None:
    """`optimizer/optimizer.py` sorts parameters by `tensor.type() == "torch.cuda.FloatTensor"`."""
    original = torch.Tensor.type

    def type_(self, *args, **kwargs):
        answer = original(self, *args, **kwargs)
        if not args and not kwargs and not answer.startswith("torch.cuda."):
            return "torch.cuda." + answer.removeprefix("torch.").removeprefix("meta.")
        return answer

    torch.Tensor.type = type_


def _random_state() -> None:
    """`tensor_parallel/random.py`: the device generator is the CPU's."""
    torch.cuda.get_rng_state = lambda *args, **kwargs: torch.get_rng_state()
    torch.cuda.set_rng_state = lambda state, *args, **kwargs: torch.set_rng_state(state)
    torch.cuda.manual_seed = torch.manual_seed
    import megatron.core.tensor_parallel.random as megatron_random

    megatron_random._get_cuda_rng_state = lambda device="cpu", clone=False, graph_safe=False: torch.get_rng_state()
    megatron_random._set_cuda_rng_state = lambda state, device=-1, graph_safe=False: torch.set_rng_state(state)

    class _Quiet(logging.Filter):
        def filter(self, record):
            return "CPU RNG state changed" not in record.getMessage()

    logging.getLogger(megatron_random.__name__).addFilter(_Quiet())


def _all_to_all_splits() -> None:
    """`moe/token_dispatcher.py: maybe_move_tensor_to_cpu` copies split sizes from the device; they are here already."""
    import megatron.core.transformer.moe.token_dispatcher as dispatcher

    def keep(tensor, as_numpy=False, record_stream=False):
        return tensor.numpy() if as_numpy and torch.is_tensor(tensor) else tensor

    dispatcher.maybe_move_tensor_to_cpu = keep


def _uneven_collectives() -> None:
    """`tensor_parallel/mappings.py` 136, 192: gloo's collectives need equal sizes (expert TP x EP)."""
    import megatron.core.tensor_parallel.mappings as mappings

    gather_evenly, scatter_evenly = mappings._gather_along_first_dim, mappings._reduce_scatter_along_first_dim

    def even(sizes, group) -> bool:
        return sizes is None or group.size() == 1 or len(set(sizes)) == 1

    def gather(tensor, group, output_split_sizes=None, use_global_buffer=False):
        if even(output_split_sizes, group):
            return gather_evenly(tensor, group, output_split_sizes, use_global_buffer)
        longest = max(output_split_sizes)
        padded = tensor.new_zeros(longest, *tensor.shape[1:])
        padded[: tensor.size(0)] = tensor
        parts = tensor.new_empty(longest * len(output_split_sizes), *tensor.shape[1:])
        torch.distributed.all_gather_into_tensor(parts, padded, group=group)
        return torch.cat([parts[i * longest : i * longest + n] for i, n in enumerate(output_split_sizes)])

    def scatter(tensor, group, input_split_sizes=None, use_global_buffer=False):
        if even(input_split_sizes, group):
            return scatter_evenly(tensor, group, input_split_sizes, use_global_buffer)
        total = tensor.contiguous().clone()
        torch.distributed.all_reduce(total, group=group)
        return torch.split(total, input_split_sizes)[group.rank()].contiguous()

    mappings._gather_along_first_dim, mappings._reduce_scatter_along_first_dim = gather, scatter


def _kernels_of_other_libraries() -> None:
    """`optimizer/__init__.py` 14, `optimizer/optimizer.py` 18, `optimizer/clip_grads.py` 11 and `moe/moe_utils.py` 1326
    take kernels of Transformer Engine or Apex where one is installed, which are for GPUs alone."""
    import megatron.core.optimizer as optimizers
    from megatron.core.optimizer import clip_grads, optimizer
    from megatron.core.transformer.moe import moe_utils
    from megatron.core.utils import local_multi_tensor_applier, local_multi_tensor_scale

    optimizers.USING_PYTORCH_OPTIMIZER = True
    for module in (clip_grads, optimizer):
        module.multi_tensor_applier = local_multi_tensor_applier
        module.multi_tensor_scale_impl = local_multi_tensor_scale
    moe_utils.te_general_gemm = None


def _groups_of_one_rank() -> None:
    """`distributed/param_and_grad_buffer.py` 504 and 702: what a rank that is alone in its group reduces and gathers
    lies where it belongs, and NCCL leaves it there; gloo copies it, as much memory as all gradients take."""
    import megatron.core.distributed.param_and_grad_buffer as buffers

    coalescing = buffers._coalescing_manager
    reduce_scatter, all_gather = buffers.dist_reduce_scatter_func, buffers.dist_all_gather_func

    @contextlib.contextmanager
    def coalescing_of_several(group, *args, **options):
        if group.size() == 1:
            yield _Event()  # there is nothing to wait for
            return
        with coalescing(group, *args, **options) as work:
            yield work

    def of_several(collective):
        def function(output, tensor, *args, group, **options):
            if group.size() > 1:
                return collective(output, tensor, *args, group=group, **options)
            assert output.data_ptr() == tensor.data_ptr() and output.numel() == tensor.numel()
            return _Event()

        return function

    buffers._coalescing_manager = coalescing_of_several
    buffers.dist_reduce_scatter_func, buffers.dist_all_gather_func = of_several(reduce_scatter), of_several(all_gather)
