"""What is needed of the inside of Megatron-Core's optimizer and its wrapper: one parameter's state, the gathers of
weights, and the hooks.

Written for megatron-core 0.19; nothing else in the package reads these names.

Relied upon, each held by a test of its own (tests/training/test_megatron_optimizer.py), so that a version that changes
one fails there and by that name:

    ChainedOptimizer.chained_optimizers             the distributed optimizers inside: dense and expert parameters have
                                                    one each
    DistributedOptimizer.optimizer                  the AdamW inside, over the ranges of this rank
    DistributedOptimizer.model_param_gbuf_map       its keys: the parameters of which it has a range here
    DistributedOptimizer._get_model_param_range_map(parameter)["param"]    the range: flat start and end
    DistributedOptimizer._get_main_param_and_optimizer_states(parameter)   views of the state of that range
    DistributedOptimizer.model_chunks               the wrapped chunks, the same in each of them
    DistributedDataParallel.grad_accs               the graph's nodes that hold its hooks
    DistributedDataParallel.param_to_bucket_group   parameter -> its bucket group, which is gathered in one piece:
        .params, .start_param_sync(), .finish_param_sync(..), .param_gather_dispatched
        .is_first_batch, .golden_per_param_grad_ready_counts    what a first step learns of the gradients' hooks

The public `sharded_state_dict` does not do. Its `fully_reshardable` form, the only one that other layouts read, gathers
the state of all data-parallel ranks on each of them (or on one, through gloo groups that are not made here), shares one
step counter among all parameters after a load with torch's AdamW, and names experts such that a checkpoint of EP = 1
does not fit EP > 1.
"""

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

import megatron.core
import torch
import torch.distributed as dist
from megatron.core.optimizer import MegatronOptimizer
from megatron.core.optimizer.clip_grads import clip_grad_by_total_norm_fp32
from torch import Tensor

from editcaption_mega import platform

WRITTEN_FOR = "0.19"
MOMENTS = ("exp_avg", "exp_avg_sq")
MASTER = "param"  # the weights that AdamW changes: fp32, a copy in a bf16 run


class ParameterState(NamedTuple):
    """The optimizer's state of one parameter, as far as this rank has it."""

    start: int  # of the flattened parameter
    end: int
    tensors: dict[str, Tensor]  # MASTER and MOMENTS by name [end - start] fp32: views, through which it is changed


def begin_state(optimizer: MegatronOptimizer, updates: int) -> None:
    """Allocate the state of a new optimizer, and let it count from `updates`. Its values are then to be filled."""
    for part in _parts(optimizer):
        inner = _inside(part, "optimizer")
        if not inner.state:
            _allocate(inner)
        _count_from(inner, updates)


def begin_without_update(optimizer: MegatronOptimizer) -> None:
    """Give an optimizer that has made no update yet the state that a checkpoint holds: zeros. No weight changes."""
    for part in _parts(optimizer):
        inner = _inside(part, "optimizer")
        if inner.state:
            continue
        rates = [group["lr"] for group in inner.param_groups]
        for group in inner.param_groups:
            group["lr"] = 0.0  # AdamW multiplies by 1 and adds 0 then
        _allocate(inner)
        for group, rate in zip(inner.param_groups, rates, strict=True):
            group["lr"] = rate
        _count_from(inner, 0)


def parameter_state(optimizer: MegatronOptimizer, parameter: torch.nn.Parameter) -> ParameterState | None:
    """The part of a model parameter's state that this rank has, or None. After `begin_state` or a first step."""
    for part in _parts(optimizer):
        if parameter in _inside(part, "model_param_gbuf_map"):
            owned = _inside(part, "_get_model_param_range_map")(parameter)["param"]
            tensors = _inside(part, "_get_main_param_and_optimizer_states")(parameter)
            return ParameterState(owned.start, owned.end, {name: tensors[name] for name in (MASTER, *MOMENTS)})
    return None


def fuse_updates(optimizer: MegatronOptimizer) -> None:
    """Let PyTorch's AdamW update all parameters of a group in one kernel each way. Before its state is begun.

    Megatron takes FusedAdam of Transformer Engine or Apex where one is installed, which does so anyway, and else
    PyTorch's without that option: many kernels, with temporaries as large as the parameters."""
    for part in _parts(optimizer):
        inner = _inside(part, "optimizer")
        if isinstance(inner, torch.optim.AdamW):
            for group in inner.param_groups:
                group["fused"], group["foreach"] = True, False


@torch.no_grad()
def ready_gradient_norm(optimizer: MegatronOptimizer) -> float:
    """Make the reduced gradients ready for `clipped_update` -> their norm over all ranks and parameters, where what
    ranks hold alike counts once. Collective.

    Megatron's own step asks for one parameter's norm after another where neither Transformer Engine nor Apex is
    installed, and the host waits for each: here it waits once. The sums are Megatron's, bit for bit on CPUs."""
    optimizer.prepare_grads()
    gradients = [gradient for part in _parts(optimizer) for gradient in part.get_grads_for_grad_norm()]
    square = torch.zeros((), device=platform.device())
    if gradients:
        square += torch.nn.utils.get_total_norm(gradients) ** 2
    dist.all_reduce(square, group=optimizer.get_grad_stats_parallel_group())
    norm: float = square.item() ** 0.5
    return norm


def clipped_update(optimizer: MegatronOptimizer, norm: float) -> None:
    """Update the weights, with gradients of that norm scaled down to the optimizer's `clip_grad` (0: as they are).
    After `ready_gradient_norm`. Collective."""
    for part in _parts(optimizer):
        if part.config.clip_grad > 0:
            clip_grad_by_total_norm_fp32(part.get_parameters(), part.config.clip_grad, norm)
    optimizer.step_with_ready_grads()


def before_updates(optimizer: MegatronOptimizer, function: Callable[[], None]) -> None:
    """Call `function` before each change of weights and moments, behind the gradients' reduction and norm."""
    for part in _parts(optimizer):
        _inside(part, "optimizer").register_step_pre_hook(lambda *_: function())


def start_gathers(chunks: list[torch.nn.Module]) -> None:
    """Begin to gather the weights that an update has changed, in the order in which forward needs them. Collective.

    Nothing where the wrapper does not overlap: the update has gathered them."""
    for chunk in chunks:
        if not _overlaps(chunk):
            continue
        groups = _inside(chunk, "param_to_bucket_group")
        for group in dict.fromkeys(groups[parameter] for parameter in chunk.parameters() if parameter in groups):
            group.start_param_sync()


def finish_gather(chunk: torch.nn.Module, parameter: torch.nn.Parameter) -> None:
    """The device goes on when this weight, of a wrapped chunk that overlaps, is whole."""
    group = _inside(chunk, "param_to_bucket_group").get(parameter)
    if group is not None:  # a frozen weight has none
        group.finish_param_sync(skip_next_bucket_dispatch=True)


def finish_gathers(optimizer: MegatronOptimizer) -> None:
    """The device goes on when all weights are whole. Before weights are read otherwise than by the next step."""
    chunks = dict.fromkeys(chunk for part in _parts(optimizer) for chunk in _inside(part, "model_chunks"))
    for chunk in filter(_overlaps, chunks):
        for group in dict.fromkeys(_inside(chunk, "param_to_bucket_group").values()):
            if _inside(group, "param_gather_dispatched"):  # else no update came before
                group.finish_param_sync(skip_next_bucket_dispatch=True)


def expect_gradients(chunks: list[torch.nn.Module]) -> None:
    """Let a first step reduce each bucket as later ones do. Megatron learns in it how often a weight gets a gradient in
    a backward pass, and reduces everything behind it; here each gets one."""
    for chunk in filter(_overlaps, chunks):
        for group in dict.fromkeys(_inside(chunk, "param_to_bucket_group").values()):
            group.golden_per_param_grad_ready_counts = dict.fromkeys(_inside(group, "params"), 1)
            group.is_first_batch = False


def _overlaps(chunk: Any) -> bool:
    overlaps: bool = chunk.ddp_config.overlap_param_gather
    return overlaps


def release_hooks(chunks: list[torch.nn.Module]) -> None:
    """Let the wrapped chunks end with their last use; they train no more.

    Megatron's hooks hold the model, and PyTorch's graph holds the hooks, where Python's collector does not look: so a
    process that trains again would keep every model, and sixty threads of gloo with each."""
    for chunk in chunks:
        accumulators: Any = _inside(chunk, "grad_accs")
        for accumulate in accumulators:
            hooks = accumulate.register_hook(lambda *gradients: None).hooks_dict_ref()
            hooks.clear()
        accumulators.clear()


def _count_from(inner: torch.optim.Optimizer, updates: int) -> None:
    # TE and Apex count per group, torch per parameter.
    for counters in (*inner.param_groups, *inner.state.values()):
        count = counters.get("step")
        if isinstance(count, Tensor):
            count.fill_(updates)
        elif count is not None:
            counters["step"] = updates


def _allocate(inner: torch.optim.Optimizer) -> None:
    """A step with gradients of zero; weight decay may change the weights, which are to be filled too."""
    for group in inner.param_groups:
        for parameter in group["params"]:
            if parameter.numel():  # Apex refuses empty ones
                parameter.grad = torch.zeros_like(parameter)
    inner.step()
    inner.zero_grad()


def _parts(optimizer: MegatronOptimizer) -> Iterator[Any]:
    """The distributed optimizers inside; one without a parameter on this rank has no AdamW."""
    for part in getattr(optimizer, "chained_optimizers", [optimizer]):
        if _inside(part, "optimizer") is not None:
            yield part


def _inside(part: Any, name: str) -> Any:
    if not hasattr(part, name):
        raise RuntimeError(
            f"megatron-core {megatron.core.__version__} has no {type(part).__name__}.{name}, which a job needs: "
            f"training/megatron_optimizer.py was written for {WRITTEN_FOR} and is the one file to change"
        )
    return getattr(part, name)
