"""Where tokens go among experts, and how their rows get there and back: sorted indices made on the device, rows that
are gathered, and sums of rows in fp32.

Everything that moves rows is one operator, `sum_rows`: a copy where a row has one source, a sum where it has several.
Its gradient is the same operator with its two indices exchanged. No thread adds to what another one writes, so results
are the same bits in every run, and the host never waits.
"""

from typing import Any, NamedTuple, Protocol

import torch
from torch import Tensor

from .backends import choose
from .checks import check_alike
from .compiled_experts import CpuExperts, CudaExperts
from .reference_experts import Order, TorchExperts
from .registration import define


class ExpertBackend(Protocol):
    """The kernels. Nothing here checks its arguments but expert_order on the CPU, which sees values."""

    def expert_order(self, routing_map: Tensor, top_k: int) -> Order: ...

    def chunk_order(self, counts: Tensor, rows: int) -> tuple[Tensor, Tensor]: ...

    def sum_rows(self, source: Tensor, index: Tensor) -> Tensor: ...


BACKENDS: dict[str, ExpertBackend] = {"cuda": CudaExperts(), "cpu": CpuExperts(), "torch": TorchExperts()}


class ExpertOrder(NamedTuple):
    """T tokens that each chose K of E experts, as T K rows sorted by expert; within one by token. int32, but counts."""

    token_of_row: Tensor  # [T K]
    choice_of_row: Tensor  # [T K]: token * E + expert
    row_of_choice: Tensor  # [T, E]; -1 where it was not chosen
    rows_of_token: Tensor  # [T, K], by expert
    counts: Tensor  # [E] int64: rows of each expert


def expert_order(routing_map: Tensor, top_k: int, *, backend: str = "auto") -> ExpertOrder:
    """Sort the choices of a router. routing_map: [T, E] bool with exactly top_k True in each row.

    A row with more or fewer is ValueError on the CPU; on a GPU nobody looks, and its order is without meaning.
    ValueError for another dtype or shape."""
    if routing_map.dtype != torch.bool or routing_map.dim() != 2 or not 1 <= top_k <= routing_map.shape[1]:
        raise ValueError(
            f"expert_order: `routing_map` must be bool [T, E] with E >= top_k >= 1, found {routing_map.dtype} "
            f"{list(routing_map.shape)} and top_k {top_k}"
        )
    return ExpertOrder(*_expert_order(routing_map, top_k, choose(backend, routing_map.device.type, "expert_order")))


def chunk_order(counts: Tensor, rows: int, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Rows that lie by (source, expert), to be sorted by (expert, source) -> (before, after) [rows] int32 each: where a
    sorted row was, and where a row goes.

    counts: [sources, experts] int64, whose sum is `rows`. ValueError for another dtype or shape."""
    if counts.dtype != torch.int64 or counts.dim() != 2:
        raise ValueError(
            f"chunk_order: `counts` must be int64 [sources, experts], found {counts.dtype} {list(counts.shape)}"
        )
    before, after = _chunk_order(counts, rows, choose(backend, counts.device.type, "chunk_order"))
    return before, after


def sum_rows(source: Tensor, index: Tensor, inverse: Tensor, *, backend: str = "auto") -> Tensor:
    """out[r] = the sum of source[index[r, i]] over i, in this order, in fp32 and rounded once -> [R, columns].

    source [N, columns] of any float dtype (fp64 in plain PyTorch). index [R, width] and inverse [N, width'] int32: row
    n of source is in the sums of the rows inverse[n]. -1 stands for no row. ValueError for other dtypes or shapes."""
    shapes = source.dim() == index.dim() == inverse.dim() == 2 and inverse.shape[0] == source.shape[0]
    if not shapes or index.dtype != torch.int32 or inverse.dtype != torch.int32:
        raise ValueError(
            "sum_rows: `source` must be [N, columns], `index` int32 [R, width] and `inverse` int32 [N, width], found "
            f"{list(source.shape)}, {index.dtype} {list(index.shape)} and {inverse.dtype} {list(inverse.shape)}"
        )
    check_alike("sum_rows", source)
    backend = "torch" if source.dtype == torch.float64 else choose(backend, source.device.type, "sum_rows")
    result: Tensor = _sum_rows(source, index, inverse, backend)
    return result


def _fake_order(routing_map: Tensor, top_k: int, backend: str) -> Order:
    tokens, experts = routing_map.shape

    def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
        return routing_map.new_empty(shape, dtype=dtype)

    rows = tokens * top_k
    return empty(rows), empty(rows), empty(tokens, experts), empty(tokens, top_k), empty(experts, dtype=torch.int64)


def _fake_chunks(counts: Tensor, rows: int, backend: str) -> tuple[Tensor, Tensor]:
    return counts.new_empty(rows, dtype=torch.int32), counts.new_empty(rows, dtype=torch.int32)


def _setup_sum(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    _, index, inverse, ctx.backend = inputs
    ctx.save_for_backward(index, inverse)


def _backward_sum(ctx: Any, grad: Tensor) -> tuple[Tensor, None, None, None]:
    index, inverse = ctx.saved_tensors
    return _sum_rows(grad, inverse, index, ctx.backend), None, None, None


_expert_order = define(
    "expert_order(Tensor routing_map, int top_k, str backend) -> (Tensor, Tensor, Tensor, Tensor, Tensor)",
    lambda routing_map, top_k, backend: BACKENDS[backend].expert_order(routing_map, top_k),
    _fake_order,
)
_chunk_order = define(
    "chunk_order(Tensor counts, int rows, str backend) -> (Tensor, Tensor)",
    lambda counts, rows, backend: BACKENDS[backend].chunk_order(counts, rows),
    _fake_chunks,
)
_sum_rows = define(
    "sum_rows(Tensor source, Tensor index, Tensor inverse, str backend) -> Tensor",
    lambda source, index, inverse, backend: BACKENDS[backend].sum_rows(source, index),
    lambda source, index, inverse, backend: source.new_empty(index.shape[0], source.shape[1]),
    _backward_sum,
    _setup_sum,
)
