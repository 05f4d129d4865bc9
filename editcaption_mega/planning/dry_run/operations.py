"""What one operator costs: floating-point operations, bytes of memory traffic, workspace, and the shape of its product;
and what a collective sends, of a rank that is alone.

FLOPs of PyTorch's own products are those of `torch.utils.flop_counter`. Attention, grouped products and this project's
kernels, which that does not know, are counted here by the same rule (2 per multiply-add); of causal attention only what
is not masked.
"""

from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor
from torch.utils.flop_counter import flop_registry

from ..timing.cost import Communication, CommunicationKind, Operation, OperationKind

# Host values of a tensor on the device, as far as the host put them there (attention's segment bounds).
Values = Callable[[Tensor], list[int] | None]


class Call(NamedTuple):
    """One call of an operator on device tensors."""

    name: str
    args: Sequence[Any]
    kwargs: dict[str, Any]
    out: Any
    values: Values

    def argument(self, position: int, name: str, default: Any = None) -> Any:
        return self.args[position] if len(self.args) > position else self.kwargs.get(name, default)

    @property
    def traffic(self) -> int:
        """Bytes of all arguments and results."""
        return tensor_bytes(self.args) + tensor_bytes(self.kwargs.values()) + tensor_bytes((self.out,))


class Cost(NamedTuple):
    operation: Operation
    workspace: int = 0  # bytes that it takes for itself while it runs


# Operators that only make a tensor or say something about one; nothing runs on the device.
_FREE = {
    "empty", "empty_strided", "empty_like", "new_empty", "new_empty_strided", "set_", "resize_", "is_same_size",
    "detach", "lift_fresh", "record_stream", "_unsafe_view",
}  # fmt: skip
_views: dict[Any, bool] = {}


def is_view(func: Any) -> bool:
    """Whether every tensor that it returns is a view of an argument, so that nothing runs on the device."""
    known = _views.get(func)
    if known is None:
        returns = func._schema.returns
        aliased = [r.alias_info is not None and not r.alias_info.is_write for r in returns]
        known = _views[func] = bool(returns) and all(aliased)
    return known


def cost_of(func: Any, args: Sequence[Any], kwargs: dict[str, Any], out: Any, values: Values) -> Cost | None:
    """What a call costs; None where nothing runs on the device."""
    namespace, _, name = func._schema.name.partition("::")
    if name in _FREE or is_view(func):
        return None
    call = Call(name, args, kwargs, out, values)
    special = _SPECIAL.get(f"{namespace}::{name}")
    if special is not None:
        return special(call)
    rule = flop_registry.get(func.overloadpacket)
    if rule is None:
        return Cost(Operation(name, "copy", 0, call.traffic))
    if func._overloadname.startswith("dtype"):  # of two dtypes, which the rules do not know
        args, kwargs = [value for value in args if isinstance(value, Tensor)], {}
    return Cost(_product(call, rule(*args, **kwargs, out_val=out)))


def tensor_bytes(values: Iterable[Any]) -> int:
    """Bytes of the elements of all tensors in there, however deep in lists; a view counts as what it shows."""
    total = 0
    for value in values:
        if isinstance(value, Tensor):
            total += value.numel() * value.element_size()
        elif isinstance(value, list | tuple):
            total += tensor_bytes(value)
    return total


def _product(call: Call, flops: int) -> Operation:
    """mm, addmm, bmm, baddbmm and the like: out [.., M, N] from [.., M, K]."""
    first = call.args[1] if call.name.startswith(("addmm", "baddbmm")) else call.args[0]
    rows, columns, inner = call.out.shape[-2], call.out.shape[-1], first.shape[-1]
    kind: OperationKind = "matmul_fp32" if call.out.dtype == torch.float32 == first.dtype else "matmul"
    # What is added to, where it is the result, too, or is given as a place for it: read once, written once.
    places = tensor_bytes((call.kwargs.get("out"),))
    return Operation(call.name, kind, flops, call.traffic - places, rows=rows, columns=columns, inner=inner)


def _grouped_product(call: Call) -> Cost:
    """Rows [T, K] with the weights of their group [groups, K, N], or [K, T] with [T, N] for the weights' gradients."""
    a, b = call.args[0], call.args[1]
    flops = 2 * a.shape[0] * a.shape[1] * b.shape[-1]
    offsets = call.argument(2, "offs")
    groups = 1 if offsets is None else offsets.shape[0]
    rows, inner = (a.shape[0] // groups, a.shape[1]) if b.dim() == 3 else (a.shape[0], a.shape[1] // groups)
    if a.dtype == torch.float32:
        return Cost(Operation(call.name, "matmul_fp32", flops, call.traffic, launches=groups))
    operation = Operation(call.name, "grouped", flops, call.traffic, rows=rows, columns=b.shape[-1], inner=inner)
    return Cost(operation)


def _pairs(call: Call, first: int, causal: bool) -> int:
    """Query-key pairs that attention looks at. first: the position of cu_seq_q among the arguments."""
    query_bounds, key_bounds = (call.values(call.args[first + i]) for i in (0, 1))
    if query_bounds is None or key_bounds is None:
        raise RuntimeError(
            f"{call.name}: the segments' bounds did not come from the host, so their lengths are not known: "
            "put them on the device with one copy from a host tensor"
        )
    total = 0
    for (start, end), (first_key, last_key) in zip(pairwise(query_bounds), pairwise(key_bounds), strict=True):
        queries, keys = end - start, last_key - first_key
        total += queries * keys - (queries * (queries - 1) // 2 if causal else 0)
    return total


def _attention(call: Call) -> Cost:
    query = call.args[0]
    causal = tuple(call.argument(9, "window_size") or (-1, -1))[1] == 0
    flops = 4 * query.shape[1] * query.shape[2] * _pairs(call, 3, causal)
    return Cost(
        Operation(call.name, "attention", flops, call.traffic, rows=call.argument(5, "max_q"), columns=query.shape[2])
    )


def _attention_backward(call: Call) -> Cost:
    """Five products for forward's two. Flash attention adds the query's gradient up in fp32, and makes the gradients of
    keys and values for every head before it adds those of a group (flash-attn, mha_varlen_bwd)."""
    query, key = call.args[1], call.args[2]
    causal = tuple(call.argument(13, "window_size") or (-1, -1))[1] == 0
    flops = 10 * query.shape[1] * query.shape[2] * _pairs(call, 6, causal)
    workspace = 4 * query.numel() + 4 * query.shape[0] * query.shape[1]
    if query.shape[1] != key.shape[1]:
        workspace += 2 * key.shape[0] * query.shape[1] * query.shape[2] * query.element_size()
    length, channels = call.argument(8, "max_q"), query.shape[2]
    operation = Operation(call.name, "attention_backward", flops, call.traffic, rows=length, columns=channels)
    return Cost(operation, workspace)


def _chunked(hidden: Tensor, weight: Tensor, max_logits_bytes: int) -> bool:
    """Whether `kernels.linear_log_probs` takes its rows in chunks (see there: Memory)."""
    return hidden.shape[0] * weight.shape[0] * hidden.element_size() > max_logits_bytes


def _lm_head(call: Call) -> Cost:
    """`kernels.linear_log_probs`, `linear_preference`: a product, and the logits read once."""
    hidden, weight = call.args[0], call.args[1]
    rows, inner, columns = hidden.shape[0], hidden.shape[1], weight.shape[0]
    logits = rows * columns * hidden.element_size()
    limit = call.kwargs["max_logits_bytes"]
    operation = Operation(
        call.name, "matmul", 2 * rows * inner * columns, tensor_bytes((hidden, weight)) + 2 * logits,
        rows=rows, columns=columns, inner=inner,
    )  # fmt: skip
    return Cost(operation, limit if _chunked(hidden, weight, limit) else 0)


def _lm_head_gradient(call: Call) -> Cost:
    """Two products, a third that makes the logits again where they came in chunks, and the logits read and written."""
    hidden, weight = call.args[0], call.args[1]
    rows, inner, columns = hidden.shape[0], hidden.shape[1], weight.shape[0]
    chunked = _chunked(hidden, weight, call.kwargs["max_logits_bytes"])
    products = call.kwargs["need_hidden"] + call.kwargs["need_weight"] + chunked
    logits = rows * columns * hidden.element_size()
    main_grad = call.argument(7, "main_grad")
    traffic = tensor_bytes((hidden, weight)) + 4 * logits + 2 * tensor_bytes((main_grad,))
    operation = Operation(
        call.name, "matmul", 2 * products * rows * inner * columns, traffic, rows=rows, columns=columns, inner=inner
    )
    workspace = 0
    if chunked:
        workspace = call.kwargs["max_logits_bytes"] + (4 * weight.numel() if main_grad is None else 0)
    return Cost(operation, workspace)


def _expert_order(call: Call) -> Cost:
    """`kernels.expert_order`: choices are counted, the counts added up, and rows placed."""
    return Cost(Operation(call.name, "copy", 0, call.traffic, launches=3))


def _row_sums(call: Call) -> Cost:
    """`kernels.sum_rows`: the rows that are picked (once, where the same row is picked again), and the sums."""
    source, index = call.args[0], call.args[1]
    picked = index.numel() * source.shape[1] * source.element_size()
    moved = min(picked, tensor_bytes((source,))) + tensor_bytes((index, call.out))
    return Cost(Operation(call.name, "copy", 0, moved))


def _norm_gradient(call: Call) -> Cost:
    """`kernels.rms_norm`: the weight's gradient is added up in parts, by a second launch (csrc/elementwise.cu: of 528
    blocks at most)."""
    columns = call.args[0].shape[-1]
    parts = 4 * columns * min(528, call.args[0].numel() // max(columns, 1))
    return Cost(Operation(call.name, "copy", 0, call.traffic + 2 * parts, launches=2), parts)


def _fused_adamw(call: Call) -> Cost:
    """Weights and moments are read and written, gradients read."""
    weights, gradients, *moments = (tensor_bytes(part) for part in call.args[:4])
    return Cost(Operation(call.name, "copy", 0, gradients + 2 * (weights + sum(moments))))


_SPECIAL: dict[str, Callable[[Call], Cost]] = {
    "editcaption::expert_order": _expert_order,
    "editcaption::sum_rows": _row_sums,
    "editcaption::rms_norm_gradient": _norm_gradient,
    "aten::_grouped_mm": _grouped_product,
    "aten::_fused_adamw_": _fused_adamw,
    "torch_attn::_varlen_attn": _attention,
    "torch_attn::_varlen_attn_backward": _attention_backward,
    "editcaption::linear_log_probs": _lm_head,
    "editcaption::linear_log_probs_gradient": _lm_head_gradient,
}


# c10d's operators: the kind, and which argument is the whole payload of a rank.
_COLLECTIVES: dict[str, tuple[CommunicationKind, int]] = {
    "allreduce_": ("all_reduce", 0),
    "allreduce_coalesced_": ("all_reduce", 0),
    "allgather_": ("all_gather", 0),
    "_allgather_base_": ("all_gather", 0),
    "allgather_into_tensor_coalesced_": ("all_gather", 0),
    "reduce_scatter_": ("reduce_scatter", 1),
    "_reduce_scatter_base_": ("reduce_scatter", 1),
    "reduce_scatter_tensor_coalesced_": ("reduce_scatter", 1),
    "alltoall_base_": ("all_to_all", 1),
    "alltoall_": ("all_to_all", 1),
    "broadcast_": ("broadcast", 0),
    "send": ("send", 0),
    "recv_": ("recv", 0),
}


def communication(func: Any, args: Sequence[Any]) -> Communication | None:
    """What a call of c10d sends; None where that is nothing."""
    name = func._schema.name.partition("::")[2]
    if name == "barrier":
        return None
    if name not in _COLLECTIVES:
        raise RuntimeError(
            f"c10d::{name} is a collective that planning/dry_run/operations.py does not know: add it there"
        )
    kind, position = _COLLECTIVES[name]
    names = [argument.name for argument in func._schema.arguments]
    group = dist.ProcessGroup.unbox(args[names.index("process_group")])
    ranks = tuple(dist.get_process_group_ranks(group))
    if kind in ("send", "recv"):
        ranks = tuple(sorted((dist.get_rank(), ranks[args[2]])))
    size = tensor_bytes([args[position]])
    return Communication(kind, size, ranks) if len(ranks) > 1 and size else None


def results(func: Any, args: Sequence[Any], work: Any) -> Any:
    """What the call returns: the tensors that were allocated for its results, and that it is done."""
    returned = tuple(work if "Work" in str(value.type) else args[0] for value in func._schema.returns)
    return returned[0] if len(returned) == 1 else returned


def finished_work() -> Any:
    """What an asynchronous collective returns: a real one, of the group of all ranks."""
    return dist.all_reduce(torch.zeros(1), async_op=True).boxed()
