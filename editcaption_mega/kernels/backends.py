"""Which implementation runs (see `contract` for what one is)."""

import functools
import warnings

import torch

from . import compiled, reference
from .contract import Backend

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
    available = available_backends()
    if backend == "auto":
        if device_type in available:
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
    if backend not in available:
        raise ValueError(
            f"{operator}: `backend` is {backend!r}, which this installation lacks; available here: {available}"
        )
    if backend != "torch" and backend != device_type:
        raise ValueError(
            f'{operator}: `backend` {backend!r} needs tensors on {backend}, found {device_type}; use backend="auto"'
        )
    return backend
