"""Low-rank adapters on frozen weights, for the layers of the model's spec. Algebra: docs/lora.md."""

from .adapted_experts import AdaptedExperts
from .adapted_linears import AdaptedRouter, AdaptedVisionLinear, adapted_column, adapted_row
from .attach import attach_adapters, begin_magnitudes
from .low_rank import begin_row, dropout_mask, module_key, row_seed, uniform_bound

__all__ = [
    "AdaptedExperts",
    "AdaptedRouter",
    "AdaptedVisionLinear",
    "adapted_column",
    "adapted_row",
    "attach_adapters",
    "begin_magnitudes",
    "begin_row",
    "dropout_mask",
    "module_key",
    "row_seed",
    "uniform_bound",
]
