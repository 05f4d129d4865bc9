"""Elementwise parts of a layer by the compiled kernels, each one call (see `elementwise.ElementwiseBackend`)."""

from typing import Any

import torch
from torch import Tensor

from . import compiled
from .reference_elementwise import TorchElementwise


class CpuElementwise:
    """The `ElementwiseBackend` in multithreaded C++."""

    def _run(self, kernel: str, device: torch.device, *arguments: Any) -> None:
        getattr(compiled.EXTENSION, kernel)(*arguments, torch.get_num_threads())

    def _norm_parts(self, rows: int, columns: int) -> int:
        return int(compiled.EXTENSION.rms_norm_parts(rows, columns))

    def swiglu(self, gate_up: Tensor, weights: Tensor | None) -> Tensor:
        gate_up, weights = gate_up.contiguous(), _fp32(weights)
        out = gate_up.new_empty(*gate_up.shape[:-1], gate_up.shape[-1] // 2)
        self._run("swiglu", gate_up.device, _swiglu_job(gate_up, weights), out.data_ptr())
        return out

    def swiglu_gradient(self, gate_up: Tensor, weights: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        gate_up, grad, weights = gate_up.contiguous(), grad.contiguous(), _fp32(weights)
        by_gate_up = torch.empty_like(gate_up)
        by_weight = torch.empty(0 if weights is None else weights.shape, dtype=torch.float32, device=gate_up.device)
        pointers = grad.data_ptr(), by_gate_up.data_ptr(), 0 if weights is None else by_weight.data_ptr()
        self._run("swiglu_backward", gate_up.device, _swiglu_job(gate_up, weights), *pointers)
        return by_gate_up, by_weight

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        extension = compiled.EXTENSION
        query, key, cos, sin = _rows(query), _rows(key), cos.contiguous(), sin.contiguous()
        outs = query.new_empty(query.shape), key.new_empty(key.shape)
        heads = [
            extension.Heads(tensor.data_ptr(), out.data_ptr(), tensor.shape[1], tensor.stride(0), tensor.stride(1))
            for tensor, out in zip((query, key), outs, strict=True)
        ]
        angles = cos.data_ptr(), sin.data_ptr(), _dtype(query), *cos.shape, inverse
        self._run("rotate", query.device, extension.Rotation(*heads, *angles))
        return outs

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        rows, weight = _matrix(x), weight.contiguous()
        out = x.new_empty(x.shape)
        inverse_rms = torch.empty(x.shape[:-1], dtype=torch.float32, device=x.device)
        pointers = out.data_ptr(), inverse_rms.data_ptr()
        self._run("rms_norm", x.device, _norm_job(rows, weight), epsilon, *pointers)
        return out, inverse_rms

    def rms_norm_gradient(self, x: Tensor, weight: Tensor, inverse_rms: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        rows, weight, grad, by_x = _matrix(x), weight.contiguous(), grad.contiguous(), x.new_empty(x.shape)
        parts = self._norm_parts(*rows.shape)
        by_weight = torch.empty(parts, x.shape[-1], dtype=torch.float32, device=x.device)
        pointers = inverse_rms.data_ptr(), grad.data_ptr(), by_x.data_ptr(), by_weight.data_ptr()
        self._run("rms_norm_backward", x.device, _norm_job(rows, weight), *pointers, parts)
        return by_x, by_weight.sum(0).to(weight.dtype)


class CudaElementwise(CpuElementwise):
    """The same on an NVIDIA GPU, each one launch. Nothing here waits for the device."""

    def _run(self, kernel: str, device: torch.device, *arguments: Any) -> None:
        compiled.launch(kernel, device, *arguments)

    def _norm_parts(self, rows: int, columns: int) -> int:
        return int(compiled.EXTENSION.rms_norm_parts_cuda(rows, columns))

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        if x.shape[-1] > compiled.EXTENSION.MOST_NORM_COLUMNS:
            return TorchElementwise().rms_norm(x, weight, epsilon)
        return super().rms_norm(x, weight, epsilon)

    def rms_norm_gradient(self, x: Tensor, weight: Tensor, inverse_rms: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        if x.shape[-1] > compiled.EXTENSION.MOST_NORM_COLUMNS:
            return TorchElementwise().rms_norm_gradient(x, weight, inverse_rms, grad)
        return super().rms_norm_gradient(x, weight, inverse_rms, grad)


def _dtype(tensor: Tensor) -> int:
    code: int = getattr(compiled.EXTENSION, compiled.DTYPE_NAMES[tensor.dtype])
    return code


def _fp32(weights: Tensor | None) -> Tensor | None:
    return None if weights is None else weights.float().contiguous()


def _rows(tensor: Tensor) -> Tensor:
    return tensor if tensor.stride(-1) == 1 else tensor.contiguous()


def _matrix(x: Tensor) -> Tensor:
    """[.., columns] as [rows, columns], without a copy where rows lie evenly apart."""
    matrix = x.flatten(0, -2) if x.dim() > 1 else x.unsqueeze(0)
    return _rows(matrix)


def _swiglu_job(gate_up: Tensor, weights: Tensor | None) -> Any:
    columns = gate_up.shape[-1] // 2
    rows = gate_up.numel() // gate_up.shape[-1] if columns else 0
    address = 0 if weights is None else weights.data_ptr()
    return compiled.EXTENSION.Swiglu(gate_up.data_ptr(), address, _dtype(gate_up), rows, columns)


def _norm_job(rows: Tensor, weight: Tensor) -> Any:
    """Holds addresses alone: what was made contiguous for it must live until the kernel ran."""
    return compiled.EXTENSION.RmsNorm(rows.data_ptr(), weight.data_ptr(), _dtype(rows), *rows.shape, rows.stride(0))
