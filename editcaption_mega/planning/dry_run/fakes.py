"""What a step on tensors without values must be told, because on a GPU the values themselves would say it.

All of it is here. Each function is one thing that is answered, with the reason. `platform` has the rest of what a
process without a GPU answers (streams, devices, random state), and the objects that ranks tell each other.
Everything is patched for good, since the process computes nothing else; a later step's recorder takes the place of the
one before.
"""

from collections.abc import Callable
from functools import cache, partial
from itertools import count
from typing import Any

import numpy as np
import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.model.parallel.delayed_gradients import DelayedGradients

from .recorder import StepRecorder


def answer_for_values(recorder: StepRecorder, imbalance: float) -> None:
    """Apply all of them. imbalance: the tokens of the fullest expert-parallel rank over the mean, which this one is."""
    _expert_loads(recorder, imbalance)
    _tensors_of_tensors(recorder)
    _fused_updates()
    _grouped_products()
    _phases(recorder)
    _beside(recorder)
    _within(recorder)


@cache
def _original(holder: Any, name: str) -> Any:
    """What the module has under this name before anything is patched here."""
    return getattr(holder, name)


def expert_counts(tokens: int, num_experts: int, ranks: int, rank: int, imbalance: float) -> np.ndarray:
    """Tokens for each expert from one rank's `tokens` (each counted once per expert chosen), whole numbers with the
    right sum. Experts of `rank` get `imbalance` times the mean together, the others share the rest;
    never more than all there are, which is `ranks` times the mean."""
    weights = np.ones((ranks, num_experts // ranks))
    if ranks > 1:
        imbalance = min(imbalance, ranks)
        weights *= (ranks - imbalance) / (ranks - 1)
        weights[rank] = imbalance
    exact = tokens * weights.flatten() / weights.sum()
    counts = np.floor(exact).astype(np.int64)
    counts[np.argsort(counts - exact, kind="stable")[: tokens - counts.sum()]] += 1
    return counts


def _expert_loads(recorder: StepRecorder, imbalance: float) -> None:
    """Dropless dispatch copies how many rows it sends and receives to the host and waits: the routers' choices are
    values. Every rank is taken to send alike, so that what it sends and what it receives are told by the same counts.
    """
    from editcaption_mega.model.dispatch import HostCopy, Sizes, SortingTokenDispatcher

    def sizes(self: Any, copy: HostCopy, num_tokens: int) -> Sizes:
        ranks, rank = self.ep_size, self.ep_group.rank()
        if ranks * self.tp_size > 1:  # else the copy was made in the forward pass, and is read in the backward pass
            recorder.sync("event.synchronize")
        rows = num_tokens * self.config.moe_router_topk
        counts = expert_counts(rows, self.config.num_moe_experts, ranks, rank, imbalance).reshape(ranks, -1)
        sent = counts.reshape(ranks, self.pieces, -1).sum(2).T  # [pieces, ranks]
        received = [[int(own)] * ranks for own in sent[:, rank]]
        gathered = [sum(map(sum, received))] * self.tp_size
        return Sizes((counts[rank] * ranks * self.tp_size).tolist(), sent.tolist(), received, gathered)

    SortingTokenDispatcher._sizes = sizes  # type: ignore[method-assign]


def _tensors_of_tensors(recorder: StepRecorder) -> None:
    """`torch.tensor` of a list of device tensors reads each of them below the dispatcher, where nobody can answer.
    A tensor that is made of numbers on the device comes from memory that is not pinned, and the host waits for the
    copy."""

    def answered(name: str, original: Callable[..., Tensor]) -> Callable[..., Tensor]:
        def tensor(data: Any, *args: Any, **kwargs: Any) -> Tensor:
            made = original(data if isinstance(data, Tensor) else _read(data, recorder), *args, **kwargs)
            if made is not data and kwargs.get("device") is not None and made.device == platform.device():
                recorder.sync(f"torch.{name} on the device")
            return made

        return tensor

    for name in ("tensor", "as_tensor"):
        setattr(torch, name, answered(name, _original(torch, name)))


def _read(data: Any, recorder: StepRecorder) -> Any:
    if isinstance(data, list | tuple):
        return type(data)(_read(item, recorder) for item in data)
    if isinstance(data, Tensor) and data.device.type == "meta":
        recorder.sync("item")
        return 1.0
    return data


def _fused_updates() -> None:
    """AdamW updates all parameters of a group in one kernel where the device has it. CUDA has it."""
    from torch.optim import optimizer
    from torch.utils import _foreach_utils

    name = "_get_fused_kernels_supported_devices"
    original: Callable[[], list[str]] = _original(_foreach_utils, name)
    for module in (optimizer, _foreach_utils):
        setattr(module, name, lambda: [*original(), "meta"])
    _meta_updates()


@cache
def _meta_updates() -> torch.library.Library:
    """What the kernel does to tensors without values, once in a process. And a product that adds to fp32, of which
    PyTorch 2.11 takes the dtype for a factor."""
    library = torch.library.Library("aten", "IMPL")
    library.impl("_fused_adamw_", lambda *args, **kwargs: None, "Meta", allow_override=True)
    library.impl("addmm.dtype_out", lambda *args, out, **kwargs: out, "Meta", allow_override=True)
    return library


@cache
def _grouped_products() -> torch.library.Library:
    """PyTorch's own form for tensors without values takes bf16 alone; CUDA multiplies fp32 too, group by group."""

    def product(a: Tensor, b: Tensor, offs: Tensor | None = None, bias: Any = None, out_dtype: Any = None) -> Tensor:
        groups = () if b.dim() == 3 or offs is None else (offs.shape[0],)
        return a.new_empty((*groups, a.shape[0], b.shape[-1]), dtype=out_dtype)

    library = torch.library.Library("aten", "IMPL")
    library.impl("_grouped_mm", product, "Meta", allow_override=True)
    return library


def _phases(recorder: StepRecorder) -> None:
    """Nothing is answered here: where a forward or backward pass begins and ends is known to Megatron's schedule."""
    from megatron.core.pipeline_parallel import schedules

    forward_step, backward_step = (_original(schedules, name) for name in ("forward_step", "backward_step"))
    counts: dict[tuple[str, int], int] = {}
    in_flight: dict[int, list[int]] = {}

    def numbered(kind: str, chunk: int) -> int:
        counts[kind, chunk] = counts.get((kind, chunk), -1) + 1
        return counts[kind, chunk]

    def forward(step: Any, data: Any, model: Any, *args: Any, **kwargs: Any) -> Any:
        chunk = kwargs.get("vp_stage") or 0
        kind = "forward" if torch.is_grad_enabled() else "reference"
        with recorder.running(kind, chunk, numbered(kind, chunk)):
            out = forward_step(step, data, model, *args, **kwargs)
        for tensor in _tensors(out[0]):
            in_flight.setdefault(id(tensor), []).append(chunk)
        return out

    def backward(input_tensor: Any, output_tensor: Any, *args: Any, **kwargs: Any) -> Any:
        chunks = [chunk for tensor in _tensors(output_tensor) for chunk in in_flight.pop(id(tensor), [])]
        chunk = chunks[0] if chunks else 0
        with recorder.running("backward", chunk, numbered("backward", chunk)):
            return backward_step(input_tensor, output_tensor, *args, **kwargs)

    make = _original(DelayedGradients, "make")

    def gradients(self: DelayedGradients, products: Any, *, ready: bool) -> None:
        with recorder.running("gradients", 0, numbered("gradients", 0)):
            make(self, products, ready=ready)

    schedules.forward_step, schedules.backward_step = forward, backward
    DelayedGradients.make = gradients  # type: ignore[method-assign]


def _beside(recorder: StepRecorder) -> None:
    """Nothing is answered here: when a bucket's communication begins, and who waits for it, is known to its group."""
    from megatron.core.distributed.param_and_grad_buffer import _ParamAndGradBucketGroup as Group

    handles: dict[tuple[str, int], int] = {}
    begun = count(1)

    def beginning(what: str, original: Any) -> Any:
        def start(self: Any, *args: Any, **kwargs: Any) -> None:
            if getattr(self.ddp_config, f"overlap_{what}"):
                handles[what, id(self)] = next(begun)
            with recorder.beside(handles.get((what, id(self)), 0)):
                original(self, *args, **kwargs)

        return start

    def waiting(what: str, pending: str, original: Any) -> Any:
        def finish(self: Any, *args: Any, **kwargs: Any) -> None:
            before = getattr(self, pending) is not None
            original(self, *args, **kwargs)
            if before:
                recorder.wait(handles[what, id(self)])

        return finish

    Group.start_param_sync = beginning("param_gather", _original(Group, "start_param_sync"))
    Group.start_grad_sync = beginning("grad_reduce", _original(Group, "start_grad_sync"))
    Group.finish_param_sync = waiting("param_gather", "param_gather_handle", _original(Group, "finish_param_sync"))
    Group.finish_grad_sync = waiting("grad_reduce", "grad_reduce_handle", _original(Group, "finish_grad_sync"))


class _Waiting:
    """What an asynchronous collective returns, and says when it is waited for."""

    def __init__(self, work: Any, done: Callable[[], None]):
        self.work, self.done = work, done

    def wait(self) -> None:
        self.work.wait()
        self.done()


def _within(recorder: StepRecorder) -> None:
    """Nothing is answered here: what a pass lets run beside its own operators is known where it is called."""
    import torch.distributed as dist

    def beginning(original: Any) -> Any:
        def call(*args: Any, async_op: bool = False, **kwargs: Any) -> Any:
            if not async_op or recorder.is_beside or args[0].device != platform.device():
                return original(*args, async_op=async_op, **kwargs)
            with recorder.within() as begun:
                work = original(*args, async_op=True, **kwargs)
            return _Waiting(work, partial(recorder.wait_within, begun))

        return call

    for name in ("all_gather_into_tensor", "reduce_scatter_tensor", "all_reduce", "all_to_all_single"):
        setattr(dist, name, beginning(_original(dist, name)))


def _tensors(value: Any) -> list[Tensor]:
    if isinstance(value, Tensor):
        return [value]
    return [tensor for item in value for tensor in _tensors(item)] if isinstance(value, list | tuple) else []
