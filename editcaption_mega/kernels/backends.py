"""What a backend is, and which one runs."""

import functools
import warnings
from typing import Protocol

import torch
from torch import Tensor

from . import compiled, reference
from .contract import Final
from .preference_losses import PreferenceLossConfig


class Backend(Protocol):
    """The kernels over one matrix of logits [T, C]: a vocabulary, or the shard of it that begins at vocab_offset and
    has valid_cols columns before its padding. targets [T] are global ids, int64. Nothing checks its arguments."""

    def is_available(self) -> bool:
        """Whether it can run on this machine."""
        ...

    def parts(self, rows: int, cols: int) -> int:
        """Into how many parts `stats` should cut the columns of each row."""
        ...

    def stats(
        self,
        logits: Tensor,
        targets: Tensor,
        vocab_offset: int,
        valid_cols: int,
        parts: int = 1,
        details: bool = False,
    ) -> Tensor:
        """-> [parts, T, 4 or 6] fp32. For each part of a row: its max; sum of exp(z - max), less 1; the target's logit
        (-inf where another part or shard holds it); with details also: sum of (z - max) exp(z - max); sum of z; argmax
        (a vocabulary id).

        Less 1, the maximum's own term: near certainty the rest is 1 - p, which fp32 would lose beside a 1."""
        ...

    def finalize(
        self,
        stats: Tensor,
        vocab_size: int,
        bounds: Tensor | None = None,
        config: PreferenceLossConfig | None = None,
        reference: Tensor | None = None,
        margins: Tensor | None = None,
    ) -> Final:
        """The parts [parts, T, 4 or 6] of all splits and shards, merged in their order. bounds: [S + 1] int64 or None;
        with a loss the answers of pair i are the sequences 2 i (chosen) and 2 i + 1 (rejected), reference [S] fp32
        their log-probs under the reference model and margins [N] fp32 what is added to the margin of each pair."""
        ...

    def gradient(
        self,
        logits: Tensor,
        targets: Tensor,
        log_probs: Tensor,
        lse: Tensor,
        row_grad: Tensor,
        vocab_offset: int,
        valid_cols: int,
        *,
        in_place: bool,
    ) -> Tensor:
        """row_grad * (1[column is target] - exp(z - max - log_sum)) -> [T, C], in the logits' memory when in_place.
        Padding columns and rows with row_grad 0 become 0."""
        ...


NAMES = ("cuda", "cpu", "torch")
BACKENDS: dict[str, Backend] = {"cuda": compiled.Cuda(), "cpu": compiled.Cpu(), "torch": reference.Torch()}


def available_backends() -> tuple[str, ...]:
    """The backends that work here, fastest first; always ends with "torch"."""
    return tuple(name for name in NAMES if BACKENDS[name].is_available())


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


def require_cuda_variant() -> None:
    """ValueError on a machine with a GPU where `backend="auto"` would fall back to PyTorch: for jobs of many hours."""
    if torch.cuda.is_available() and "cuda" not in available_backends():
        built = "was not built" if compiled.EXTENSION is None else "was built without CUDA"
        raise ValueError(
            f"this machine has a GPU and the kernels' extension {built}, so log-probs would be computed in plain "
            "PyTorch, slower and with more memory: put nvcc on the PATH and run `make setup`, or set "
            "model.kernels=torch"
        )


def choose(backend: str, device_type: str, operator: str) -> str:
    """The name of the backend that runs for tensors on `device_type`; "auto" takes the best one there is.

    ValueError when the name is unknown, not available here, or for another device."""
    if backend == "auto":
        if device_type in BACKENDS and BACKENDS[device_type].is_available():
            return device_type
        if device_type == "cpu":
            _warn_once(
                "editcaption_mega.kernels: the extension isn't built, so log-probs use plain PyTorch, which is slower; "
                "install a C++ compiler and run `make setup`"
            )
        if device_type == "cuda":
            _warn_once(
                "editcaption_mega.kernels: the extension was built without CUDA, so log-probs on the GPU use plain "
                "PyTorch, which is slower; put nvcc on the PATH and run `make setup`"
            )
        return "torch"
    if backend not in NAMES:
        raise ValueError(f'{operator}: `backend` must be "auto" or one of {NAMES}, found {backend!r}')
    if backend not in (available := available_backends()):
        raise ValueError(
            f"{operator}: `backend` is {backend!r}, which this installation lacks; available here: {available}"
        )
    if backend != "torch" and backend != device_type:
        raise ValueError(
            f'{operator}: `backend` {backend!r} needs tensors on {backend}, found {device_type}; use backend="auto"'
        )
    return backend
