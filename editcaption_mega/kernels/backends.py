"""Which implementation runs (see `contract` for what one is)."""

import functools
import warnings

from . import compiled, reference

NAMES = ("cuda", "cpu", "torch")
BACKENDS = {"cuda": compiled.Cuda(), "cpu": compiled.Cpu(), "torch": reference}


def available_backends() -> tuple[str, ...]:
    """The backends that work here, fastest first; always ends with "torch"."""
    return tuple(name for name in NAMES if name == "torch" or BACKENDS[name].is_available())


@functools.cache
def _warn_once(message: str) -> None:
    warnings.warn(message, RuntimeWarning, stacklevel=4)


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
