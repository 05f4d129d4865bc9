"""Experts' orders and sums of rows in plain PyTorch, on any device; the compiled forms are read against it."""

import torch
from torch import Tensor

Order = tuple[Tensor, Tensor, Tensor, Tensor, Tensor]


class TorchExperts:
    """The `ExpertBackend` that runs everywhere, in fp64 too."""

    def expert_order(self, routing_map: Tensor, top_k: int) -> Order:
        tokens, experts = routing_map.shape
        counts = routing_map.sum(0)
        row = routing_map.cumsum(0) - 1 + (counts.cumsum(0) - counts)
        row_of_choice = row.masked_fill(~routing_map, -1)
        by_expert = routing_map.t().reshape(-1).argsort(descending=True, stable=True)[: tokens * top_k]
        token_of_row = by_expert % max(tokens, 1)
        choice_of_row = token_of_row * experts + by_expert // max(tokens, 1)
        rows_of_token = row.masked_fill(~routing_map, tokens * experts).sort(1).values[:, :top_k]
        orders = (token_of_row, choice_of_row, row_of_choice, rows_of_token)
        first, second, third, fourth = (order.to(torch.int32) for order in orders)
        return first, second, third, fourth, counts

    def chunk_order(self, counts: Tensor, rows: int) -> tuple[Tensor, Tensor]:
        sizes = counts.flatten()
        starts = (sizes.cumsum(0) - sizes).view_as(counts).t().flatten()
        sizes = counts.t().flatten()
        moved = starts - (sizes.cumsum(0) - sizes)
        place = torch.arange(rows, device=counts.device)
        before = place + moved.repeat_interleave(sizes, output_size=rows)
        after = torch.empty_like(before)
        after[before] = place
        return before.to(torch.int32), after.to(torch.int32)

    def sum_rows(self, source: Tensor, index: Tensor) -> Tensor:
        dtype = torch.float64 if source.dtype == torch.float64 else torch.float32
        total = torch.zeros(index.shape[0], source.shape[1], dtype=dtype, device=source.device)
        if source.shape[0]:
            for column in index.unbind(1):
                rows = source.index_select(0, column.clamp(min=0)).to(dtype)
                total += rows.masked_fill((column < 0)[:, None], 0.0)
        return total.to(source.dtype)
