"""Experts' orders and sums of rows by the compiled extension, on the CPU and CUDA (see `expert_rows.ExpertBackend`)."""

from typing import Any

import torch
from torch import Tensor

from . import compiled
from .reference_experts import Order


class CpuExperts:
    """The `ExpertBackend` in C++."""

    def expert_order(self, routing_map: Tensor, top_k: int) -> Order:
        tokens, experts = routing_map.shape
        chosen = routing_map.contiguous()

        def empty(*shape: int, dtype: torch.dtype = torch.int32) -> Tensor:
            return torch.empty(shape, dtype=dtype, device=chosen.device)

        rows = tokens * top_k
        order = (
            empty(rows),
            empty(rows),
            empty(tokens, experts),
            empty(tokens, top_k),
            empty(experts, dtype=torch.int64),
        )
        extension = compiled.EXTENSION
        routing = extension.Routing(chosen.data_ptr(), tokens, experts, top_k)
        self._order_experts(routing, extension.ExpertOrder(*(part.data_ptr() for part in order)), chosen)
        return order

    def _order_experts(self, routing: Any, order: Any, chosen: Tensor) -> None:
        compiled.EXTENSION.expert_order(routing, order)

    def chunk_order(self, counts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        counts = counts.contiguous()
        before, after = (torch.empty(rows, dtype=torch.int32, device=counts.device) for _ in range(2))
        pointers = before.data_ptr(), after.data_ptr()
        job = compiled.EXTENSION.ChunkOrder(counts.data_ptr(), *counts.shape, rows, *pointers)
        self._run("chunk_order", counts.device, job)
        return before, after

    def sum_rows(self, source: Tensor, index: Tensor) -> Tensor:
        extension, source, index = compiled.EXTENSION, source.contiguous(), index.contiguous()
        out = source.new_empty(index.shape[0], source.shape[1])
        dtype = getattr(extension, compiled.DTYPE_NAMES[source.dtype])
        pointers = source.data_ptr(), index.data_ptr(), out.data_ptr()
        job = extension.RowSum(*pointers, dtype, source.shape[1], *index.shape)
        self._run("sum_rows", source.device, job)
        return out

    def _run(self, kernel: str, device: torch.device, job: Any) -> None:
        threads = [torch.get_num_threads()] if kernel == "sum_rows" else []
        getattr(compiled.EXTENSION, kernel)(job, *threads)


class CudaExperts(CpuExperts):
    """The same on an NVIDIA GPU. Nothing here waits for the device."""

    def _order_experts(self, routing: Any, order: Any, chosen: Tensor) -> None:
        tokens, experts = chosen.shape
        blocks = -(-tokens // compiled.EXTENSION.TOKENS_PER_BLOCK)
        workspace = torch.empty(blocks + 1, experts, dtype=torch.int32, device=chosen.device)
        compiled.launch("expert_order", chosen.device, routing, order, workspace.data_ptr())

    def _run(self, kernel: str, device: torch.device, job: Any) -> None:
        compiled.launch(kernel, device, job)
