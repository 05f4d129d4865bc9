"""Which implementation computes the softmax statistics and their gradient.

A backend is a module with two functions over one matrix of logits [T, C] (a vocabulary or its shard):

    stats(logits, targets, vocab_offset, valid_cols, entropy=False) -> [T, 4] fp32
        max; sum of exp(z - max), less 1; the target's logit (-inf in other shards); sum of (z - max) exp(z - max) or 0
        (less 1, the maximum's own term: near certainty the rest is 1 - p, which fp32 would lose beside a 1)
    gradient(logits, targets, lse [T, 2], row_grad [T], vocab_offset, valid_cols, *, in_place) -> [T, C]
        row_grad * (1[column is target] - exp(z - max - log_sum)); padding columns and rows with row_grad 0 become 0
"""

import functools
import warnings
from types import ModuleType

from . import cpu, reference

NAMES = ("cuda", "cpu", "torch")
MODULES: dict[str, ModuleType] = {"cpu": cpu, "torch": reference}


def available_backends() -> tuple[str, ...]:
    """The backends that work here, fastest first; always ends with "torch"."""
    return ("cpu", "torch") if cpu.EXTENSION is not None else ("torch",)


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def choose(backend: str, device_type: str, operator: str) -> str:
    """The name of the backend that runs for tensors on `device_type`; "auto" takes the best one there is.

    ValueError when the name is unknown, not available here, or for another device."""
    available = available_backends()
    if backend == "auto":
        if device_type == "cpu":
            if "cpu" in available:
                return "cpu"
            _warn_once(
                "editcaption_mega.kernels: the extension isn't built, so log-probs use plain PyTorch, which is slower; "
                "install a C++ compiler and run `make setup`"
            )
        return "torch"
    if backend not in NAMES:
        raise ValueError(f'{operator}: `backend` must be "auto" or one of {NAMES}, found {backend!r}')
    if backend not in available:
        raise ValueError(
            f"{operator}: `backend` is {backend!r}, which this installation lacks; available here: {available}"
        )
    if backend != "torch" and backend != device_type:
        raise ValueError(
            f'{operator}: `backend` {backend!r} needs tensors on {backend}, found {device_type}; use backend="auto"'
        )
    return backend
