"""One adapter: y += scale B (A x), its dropout and its magnitudes (DoRA)."""

import math
import zlib

import torch
from torch import Tensor, nn

from editcaption_mega import platform

from ..parallel.adapter_plan import AdapterPart, AdapterPlan


class LowRank(nn.Module):
    """The parameters of an adapter, as PEFT has them, or what this rank has of them.

    lora_A [r, in], lora_B [rows, r]; magnitude [rows] with DoRA. Uninitialized: `conversion.adapter_values` fills them.
    """

    def __init__(self, plan: AdapterPlan, part: AdapterPart, name: str, weight: nn.Parameter):
        """name: of the weight in the whole model. weight [all rows, in]: what this rank has of it."""
        super().__init__()
        self.plan, self.part = plan, part
        self.key = module_key(name, part.leaf)
        rows = weight.size(0) * part.length // part.total
        self.lora_A = nn.Parameter(weight.new_empty(plan.rank, weight.size(1)))
        self.lora_B = nn.Parameter(weight.new_empty(rows, plan.rank))
        self.magnitude = nn.Parameter(weight.new_empty(rows)) if plan.dora else None

    def forward(self) -> tuple[Tensor, Tensor]:
        """A and B. They are read by this call alone: where weights are gathered while others are computed, Megatron
        waits for those of a module when it is called."""
        return self.lora_A, self.lora_B

    def mask(self, tokens: int, channels: int, like: Tensor) -> Tensor | None:
        """Of dropout, for the inputs of a whole row [tokens, channels]; None where nothing is dropped."""
        share = self.plan.dropout
        if not share or not self.training:
            return None
        return dropout_mask(share, (tokens, channels), torch.initial_seed(), self.key, like)

    def row_scale(self, norms: Tensor) -> Tensor:
        """What DoRA multiplies each row's output by [rows]. norms [rows] of the changed rows, constants for the
        gradient (arXiv 2402.09353, section 4.3)."""
        assert self.magnitude is not None
        return self.magnitude / norms

    def changed(self, weight: Tensor) -> Tensor:
        """The rows of the weight [rows, in] with the adapter in them, without gradients."""
        with torch.no_grad():
            return weight + self.plan.scale * (self.lora_B @ self.lora_A)


def begin_row(plan: AdapterPlan, name: str) -> None:
    """Before a row is computed: what dropout draws depends on the plan's seed, the step and the row's name, and not on
    the layout. The seed of the CPU's generator carries it: whatever computes a layer again restores that generator."""
    if plan.dropout:
        platform.seed_host_generator(row_seed(plan.seed, plan.switch.step, name))


def row_seed(seed: int, step: int, name: str) -> int:
    return zlib.crc32(f"{seed} {step} {name}".encode())


def module_key(name: str, leaf: str) -> int:
    """name: of the weight in the whole model."""
    return zlib.crc32(f"{name} {leaf}".encode())


def dropout_mask(share: float, shape: tuple[int, int], seed: int, key: int, like: Tensor) -> Tensor:
    """What dropout multiplies inputs by [tokens, channels], of a row and a module. A longer row begins as a shorter one
    does."""
    generator = torch.Generator(like.device)
    generator.manual_seed((seed * 1_000_003 + key) % 2**63)
    kept = torch.rand(shape, generator=generator, device=like.device) >= share
    return kept.to(like.dtype) / (1 - share)


def uniform_bound(columns: int) -> float:
    """New lora_A is uniform within this, as PEFT's: Kaiming's with a = sqrt(5)."""
    return 1 / math.sqrt(columns)
