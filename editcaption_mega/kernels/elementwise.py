"""Elementwise parts of a layer, each one kernel forward and one backward: SwiGLU with the experts' probabilities,
rotary embedding, RMSNorm.

What goes backward is the input and no intermediate result.
"""

from typing import Any, Protocol

import torch
from torch import Tensor

from .backends import choose
from .checks import check_alike
from .compiled_elementwise import CpuElementwise, CudaElementwise
from .library_common import refuse_second_derivative
from .reference_elementwise import TorchElementwise, inner_dtype
from .registration import define


class ElementwiseBackend(Protocol):
    """The kernels. Nothing here checks its arguments."""

    def swiglu(self, gate_up: Tensor, weights: Tensor | None) -> Tensor: ...

    def swiglu_gradient(self, gate_up: Tensor, weights: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]: ...

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]: ...

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]: ...

    def rms_norm_gradient(
        self, x: Tensor, weight: Tensor, inverse_rms: Tensor, grad: Tensor
    ) -> tuple[Tensor, Tensor]: ...


BACKENDS: dict[str, ElementwiseBackend] = {
    "cuda": CudaElementwise(),
    "cpu": CpuElementwise(),
    "torch": TorchElementwise(),
}


def swiglu(gate_up: Tensor, weights: Tensor | None = None, *, backend: str = "auto") -> Tensor:
    """silu(gate) * up * weight, in fp32 and rounded once (Shazeer 2020, arXiv 2002.05202).

    gate_up: [.., 2 F], the gate's channels first -> [.., F]. weights: [..], one for each row (the experts'
    probabilities), or None. Their gradient is fp32. ValueError for other shapes and dtypes."""
    width = gate_up.shape[-1] if gate_up.dim() else 0
    if width == 0 or width % 2 or (weights is not None and weights.shape != gate_up.shape[:-1]):
        raise ValueError(
            f"swiglu: `gate_up` must be [.., 2 F] and `weights` one for each row, found {list(gate_up.shape)} and "
            f"{None if weights is None else list(weights.shape)}"
        )
    check_alike("swiglu", gate_up)
    result: Tensor = _swiglu(gate_up, weights, _backend(backend, gate_up, "swiglu"))
    return result


def rotate(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, *, backend: str = "auto") -> tuple[Tensor, Tensor]:
    """Rotary embedding of each head (Su et al., arXiv 2104.09864), whose two halves are the pairs.

    query [T, heads, d] and key [T, kv heads, d] of one dtype; cos and sin [T, d / 2] fp32 (or fp64 with fp64) -> both
    rotated, in fp32 and rounded once. No gradient goes to the angles. ValueError for other shapes and dtypes."""
    halves = (*query.shape[:1], query.shape[-1] // 2) if query.dim() == 3 and query.shape[-1] % 2 == 0 else None
    if query.shape[::2] != key.shape[::2] or key.dim() != 3 or cos.shape != halves or sin.shape != halves:
        raise ValueError(
            "rotate: `query` and `key` must be [T, heads, d] with an even d, `cos` and `sin` [T, d / 2], found "
            f"{[list(tensor.shape) for tensor in (query, key, cos, sin)]}"
        )
    check_alike("rotate", query, key)
    if cos.dtype != sin.dtype or cos.dtype not in (torch.float32, inner_dtype(query)):
        raise ValueError(f"rotate: `cos` and `sin` must be float32, found {cos.dtype} and {sin.dtype}")
    rotated: tuple[Tensor, Tensor] = _rotate(query, key, cos, sin, False, _backend(backend, query, "rotate"))
    return rotated


def rms_norm(x: Tensor, weight: Tensor, epsilon: float, *, backend: str = "auto") -> Tensor:
    """weight * x / rms(x) over the last dimension (Zhang and Sennrich 2019, arXiv 1910.07467), in fp32 inside and
    rounded before the weight, as transformers' Qwen3VLTextRMSNorm does.

    x [.., H], weight [H] of one dtype -> [.., H]. ValueError for other shapes and dtypes."""
    if weight.dim() != 1 or weight.shape != x.shape[-1:]:
        raise ValueError(
            f"rms_norm: `weight` must be {list(x.shape[-1:]) or '[H]'} to follow `x` {list(x.shape)}, found "
            f"{list(weight.shape)}"
        )
    check_alike("rms_norm", x, weight)
    result: Tensor = _rms_norm(x, weight, epsilon, _backend(backend, x, "rms_norm"))[0]
    return result


def _backend(backend: str, tensor: Tensor, operator: str) -> str:
    return "torch" if tensor.dtype == torch.float64 else choose(backend, tensor.device.type, operator)


def _setup_swiglu(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    gate_up, weights, ctx.backend = inputs
    ctx.save_for_backward(gate_up, weights)


def _backward_swiglu(ctx: Any, grad: Tensor) -> tuple[Tensor, Tensor | None, None]:
    refuse_second_derivative("swiglu")
    gate_up, weights = ctx.saved_tensors
    by_gate_up, by_weight = _swiglu_gradient(gate_up, weights, grad, ctx.backend)
    return by_gate_up, None if weights is None else by_weight.to(weights.dtype), None


def _setup_rotate(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    _, _, cos, sin, ctx.inverse, ctx.backend = inputs
    ctx.save_for_backward(cos, sin)


def _backward_rotate(ctx: Any, by_query: Tensor, by_key: Tensor) -> tuple[Tensor | None, ...]:
    cos, sin = ctx.saved_tensors
    return *_rotate(by_query, by_key, cos, sin, not ctx.inverse, ctx.backend), None, None, None, None


def _setup_norm(ctx: Any, inputs: tuple[Any, ...], output: tuple[Tensor, Tensor]) -> None:
    x, weight, _, ctx.backend = inputs
    ctx.mark_non_differentiable(output[1])
    ctx.set_materialize_grads(False)
    ctx.save_for_backward(x, weight, output[1])


def _backward_norm(ctx: Any, grad: Tensor | None, _: Any) -> tuple[Tensor | None, ...]:
    refuse_second_derivative("rms_norm")
    if grad is None:
        return None, None, None, None
    return *_rms_norm_gradient(*ctx.saved_tensors, grad, ctx.backend), None, None


_swiglu = define(
    "swiglu(Tensor gate_up, Tensor? weights, str backend) -> Tensor",
    lambda gate_up, weights, backend: BACKENDS[backend].swiglu(gate_up, weights),
    lambda gate_up, weights, backend: gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2),
    _backward_swiglu,
    _setup_swiglu,
)
_swiglu_gradient = define(
    "swiglu_gradient(Tensor gate_up, Tensor? weights, Tensor grad, str backend) -> (Tensor, Tensor)",
    lambda gate_up, weights, grad, backend: BACKENDS[backend].swiglu_gradient(gate_up, weights, grad),
    lambda gate_up, weights, grad, backend: (
        gate_up.new_empty(gate_up.shape),
        gate_up.new_empty(0 if weights is None else weights.shape, dtype=inner_dtype(gate_up)),
    ),
)
_rotate = define(
    "rotate(Tensor query, Tensor key, Tensor cos, Tensor sin, bool inverse, str backend) -> (Tensor, Tensor)",
    lambda query, key, cos, sin, inverse, backend: BACKENDS[backend].rotate(query, key, cos, sin, inverse),
    lambda query, key, cos, sin, inverse, backend: (query.new_empty(query.shape), key.new_empty(key.shape)),
    _backward_rotate,
    _setup_rotate,
)
_rms_norm = define(
    "rms_norm(Tensor x, Tensor weight, float epsilon, str backend) -> (Tensor, Tensor)",
    lambda x, weight, epsilon, backend: BACKENDS[backend].rms_norm(x, weight, epsilon),
    lambda x, weight, epsilon, backend: (x.new_empty(x.shape), x.new_empty(x.shape[:-1], dtype=inner_dtype(x))),
    _backward_norm,
    _setup_norm,
)
_rms_norm_gradient = define(
    "rms_norm_gradient(Tensor x, Tensor weight, Tensor inverse_rms, Tensor grad, str backend) -> (Tensor, Tensor)",
    lambda x, weight, inverse_rms, grad, backend: BACKENDS[backend].rms_norm_gradient(x, weight, inverse_rms, grad),
    lambda x, weight, inverse_rms, grad, backend: (x.new_empty(x.shape), weight.new_empty(weight.shape)),
)
