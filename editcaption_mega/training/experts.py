"""How evenly the router spreads tokens over experts: logged per step, because drift shows here first."""

from typing import Any

import torch
import torch.distributed as dist
from megatron.core.transformer.moe.router import TopKRouter

from editcaption_mega.model import unwrap


class ExpertLoad:
    """Counts tokens per expert with forward hooks on the routers (a public hook, nothing is patched)."""

    def __init__(self, chunks: list[torch.nn.Module], num_layers: int, num_experts: int):
        device = next(chunks[0].parameters()).device
        self.counts = torch.zeros(num_layers, num_experts, dtype=torch.float32, device=device)
        for chunk in chunks:
            for module in unwrap(chunk).modules():
                if isinstance(module, TopKRouter):
                    module.register_forward_hook(self._count)

    def _count(self, router: TopKRouter, inputs: tuple[Any, ...], output: tuple[Any, ...]) -> None:
        if not router.training:  # an evaluation
            return
        routing_map = output[1].detach()
        padding_mask = inputs[1] if len(inputs) > 1 else None
        if padding_mask is not None:
            routing_map = routing_map & ~padding_mask.reshape(-1, 1)
        self.counts[router.layer_number - 1] += routing_map.sum(0)

    def metrics(self) -> dict[str, float]:
        """Collective. Fullest expert over the mean (1 = even), worst and average layer, and experts without a token."""
        if dist.get_world_size() > 1:
            dist.all_reduce(self.counts)
        share = self.counts.max(1).values / self.counts.mean(1).clamp(min=1e-9)
        # One copy to the host, which waits for the device once.
        worst, mean, unused = torch.stack((share.max(), share.mean(), (self.counts == 0).sum().float())).tolist()
        self.counts.zero_()
        return {
            "expert_load_worst_layer": worst,
            "expert_load_mean": mean,
            "experts_without_tokens": int(unused),
        }
