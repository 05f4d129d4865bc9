"""Log-probabilities of target tokens, from logits or straight from hidden states, with exact fp32 softmax statistics.

    log_probs(logits [T, V], targets [T]) -> [T] fp32
    linear_log_probs(hidden [T, H], weight [V, H], targets [T], *, group=None, backend="auto") -> [T] fp32
    available_backends() -> those of ("cuda", "cpu", "torch") that this installation can run here

The sources of the compiled backends are in csrc/; the `torch` backend is the readable reference and runs everywhere.
"""

from .backends import available_backends
from .operators import linear_log_probs, log_probs

__all__ = ["available_backends", "linear_log_probs", "log_probs"]
