"""The operators that have kernels of their own. Log-probabilities of target tokens, and preference losses on them, with
exact fp32 softmax statistics:

    log_probs(logits [T, V], targets [T]) -> [T] fp32
    linear_log_probs(hidden [T, H], weight [V, H], targets [T], *, group=None, backend="auto") -> [T] fp32
    preference(logits, targets, cu_seqlens, reference, config) -> PreferenceOutput       and linear_preference
    sequence_sums(log_probs [T], cu_seqlens [S + 1]) -> [S] fp32
    expert_order(routing_map [T, E], top_k), chunk_order(counts, rows), sum_rows(source, index, inverse)
    swiglu(gate_up, weights), rotate(query, key, cos, sin), rms_norm(x, weight, epsilon)
    weight_gradient(weight, grad, x), grouped_weight_gradient(weight, grad, x, ends, counts), returned_gradient(weight)
    available_backends() -> those of ("cuda", "cpu", "torch") that this installation can run here

The sources of the compiled backends are in csrc/; the `torch` backend is the readable reference and runs everywhere.
"""

from .backends import available_backends, require_cuda_variant
from .elementwise import rms_norm, rotate, swiglu
from .expert_rows import ExpertOrder, chunk_order, expert_order, sum_rows
from .main_grad import grouped_weight_gradient, returned_gradient, weight_gradient
from .operators import (
    MAX_LOGITS_BYTES,
    PreferenceOutput,
    TokenDetails,
    linear_log_probs,
    linear_preference,
    log_probs,
    preference,
    sequence_sums,
)
from .preference_losses import PreferenceLossConfig

__all__ = [
    "MAX_LOGITS_BYTES",
    "ExpertOrder",
    "PreferenceLossConfig",
    "PreferenceOutput",
    "TokenDetails",
    "available_backends",
    "chunk_order",
    "expert_order",
    "grouped_weight_gradient",
    "linear_log_probs",
    "linear_preference",
    "log_probs",
    "preference",
    "require_cuda_variant",
    "returned_gradient",
    "rms_norm",
    "rotate",
    "sequence_sums",
    "sum_rows",
    "swiglu",
    "weight_gradient",
]
