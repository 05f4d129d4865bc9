"""Grouped experts with adapters: one for each expert, or one for all experts of a layer.

Expert tensor parallelism: every rank of the group has the same rows, and a part of the channels between the two
products. What its adapters add is a part of the same sums as what its weights give, so nothing travels in the forward
pass. The gradient of what is whole on each of these ranks, A before and B behind those channels, is a sum over them.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from typing import Any

import torch.nn.functional as F
from megatron.core.tensor_parallel import copy_to_tensor_model_parallel_region
from torch import Tensor, nn

from ..parallel.adapter_plan import AdapterPart, AdapterPlan
from ..parallel.delayed_gradients import GradientRule
from ..parallel.grouped_experts import ExpertRows, GroupedExperts, grouped_product
from ..parallel.marks import mark

GATE_UP, DOWN = "gate_up_proj", "down_proj"


class ExpertsAdapter(nn.Module):
    """The parameters on one of the two weights of this rank's experts.

    Of each expert: lora_A [experts, r, in], lora_B [experts, out, r], divided as the weight is. Shared: lora_A [r, in]
    and lora_B [out, r], whole on each rank: their gradients are summed over all ranks as those of norms are."""

    def __init__(self, plan: AdapterPlan, weight: nn.Parameter, columns: int, rows: tuple[int, ...]):
        """columns: of the weight, undivided where the adapter is shared; rows likewise."""
        super().__init__()
        of_each = (weight.size(0),) if plan.experts == "each" else ()
        self.lora_A = nn.Parameter(weight.new_empty(*of_each, plan.rank, columns))
        self.lora_B = nn.Parameter(weight.new_empty(*of_each, *rows, plan.rank))

    def forward(self) -> tuple[Tensor, Tensor]:
        """A and B, as `LowRank` gives them."""
        return self.lora_A, self.lora_B


class AdaptedExperts(GroupedExperts):
    """Experts whose weights may have adapters."""

    plan: AdapterPlan | None = None

    def __init__(self, *args: Any, pg_collection: Any = None, **options: Any):
        super().__init__(*args, **options, pg_collection=pg_collection)  # type: ignore[misc]
        self.tensor_group = pg_collection.expt_tp

    def attach(self, plan: AdapterPlan, parts: tuple[AdapterPart, ...], name: str) -> None:
        """Make the adapters of one of the weights, of which this is the name in the whole model."""
        self.plan = plan
        if "adapters" not in self._modules:
            self.adapters = nn.ModuleDict()
        (part,) = parts
        weight = self.gate_up if part.leaf == GATE_UP else self.down
        shared = plan.experts == "shared"
        size = self.tensor_group.size() if shared else 1
        ffn, hidden = self.gate_up.size(2) * size, self.gate_up.size(3)
        columns, rows = (hidden, (2, ffn)) if part.leaf == GATE_UP else (ffn, (hidden,))
        adapter = ExpertsAdapter(plan, weight, columns, rows)
        self.adapters[part.leaf] = adapter
        if shared:
            for whole in (adapter.lora_A, adapter.lora_B):
                mark(whole, tensor_model_parallel=False, sequence_parallel=self.config.sequence_parallel)
            return
        allreduce = self.gate_up.allreduce  # type: ignore[attr-defined]
        divided, whole = (adapter.lora_B, adapter.lora_A) if part.leaf == GATE_UP else (adapter.lora_A, adapter.lora_B)
        mark(divided, allreduce=allreduce, tensor_model_parallel=True, partition_dim=2, partition_stride=1)
        mark(whole, allreduce=allreduce, tensor_model_parallel=False)

    def product(self, x: Tensor, weight: Tensor, ends: Tensor, rows: ExpertRows) -> Tensor:
        base = super().product(x, weight, ends, rows)
        if self.plan is None or not self.plan.switch.on:
            return base
        leaf = GATE_UP if weight is self.gate_up else DOWN
        if leaf not in self.adapters:
            return base
        adapter: Any = self.adapters[leaf]
        if self.plan.experts == "shared":
            return base + self._shared(adapter, x, leaf) * self.plan.scale
        a, b = adapter()
        if self.tensor_group.size() > 1:
            if leaf == GATE_UP:
                a = copy_to_tensor_model_parallel_region(a, group=self.tensor_group)
            else:
                b = copy_to_tensor_model_parallel_region(b, group=self.tensor_group)
        rule = GradientRule(self.config.fused_weight_gradients)
        hidden = grouped_product(x, a, ends, rows, rule)
        return base + grouped_product(hidden, b, ends, rows, rule) * self.plan.scale

    def _shared(self, adapter: ExpertsAdapter, x: Tensor, leaf: str) -> Tensor:
        """What one adapter for all experts makes of rows, by the channels of this rank."""
        ffn, rank = self.gate_up.size(2), self.tensor_group.rank()
        a, b = adapter()
        if leaf == GATE_UP:
            b = b.narrow(1, rank * ffn, ffn).flatten(0, 1)
        else:
            a = a.narrow(1, rank * ffn, ffn)
        return F.linear(F.linear(x, a), b)
