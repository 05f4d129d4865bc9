"""Elementwise parts of a layer in plain PyTorch, on any device: what training on the CPU computes, in fp32 inside (fp64
where the tensors are)."""

import torch
from torch import Tensor


def inner_dtype(tensor: Tensor) -> torch.dtype:
    """What is computed in."""
    return torch.float64 if tensor.dtype == torch.float64 else torch.float32


_BLOCK_ELEMENTS = 1 << 18  # of what is computed in one piece: it stays in the cache, and takes no memory to speak of


def _blocks(matrix: Tensor) -> list[slice]:
    rows, columns = matrix.shape
    step = max(1, _BLOCK_ELEMENTS // max(columns, 1))
    return [slice(start, start + step) for start in range(0, rows, step)]


class TorchElementwise:
    """The `ElementwiseBackend` that runs everywhere."""

    def swiglu(self, gate_up: Tensor, weights: Tensor | None) -> Tensor:
        pairs = gate_up.reshape(-1, gate_up.shape[-1])
        out = pairs.new_empty(len(pairs), pairs.shape[1] // 2)
        for rows in _blocks(pairs):
            gate, up = pairs[rows].to(inner_dtype(pairs)).chunk(2, -1)
            result = torch.nn.functional.silu(gate).mul_(up)
            out[rows] = result if weights is None else result.mul_(weights.reshape(-1, 1)[rows])
        return out.view(*gate_up.shape[:-1], out.shape[1])

    def swiglu_gradient(self, gate_up: Tensor, weights: Tensor | None, grad: Tensor) -> tuple[Tensor, Tensor]:
        pairs, grad = gate_up.reshape(-1, gate_up.shape[-1]), grad.reshape(-1, grad.shape[-1])
        inner = inner_dtype(pairs)
        result = torch.empty(pairs.shape, dtype=pairs.dtype, device=pairs.device)
        by_weight = torch.empty(0 if weights is None else len(pairs), dtype=inner, device=pairs.device)
        for rows in _blocks(pairs):
            gate, up = pairs[rows].to(inner).chunk(2, -1)
            sigmoid, upstream = gate.sigmoid(), grad[rows].to(inner)
            silu = gate * sigmoid
            if weights is not None:
                by_weight[rows] = (upstream * silu * up).sum(-1)
                upstream = upstream * weights.reshape(-1, 1)[rows]
            by_gate = upstream * up * (sigmoid * (1 + gate * (1 - sigmoid)))
            result[rows] = torch.cat((by_gate, upstream * silu), -1).to(result.dtype)
        return result.view(gate_up.shape), by_weight if weights is None else by_weight.view(weights.shape)

    def rotate(self, query: Tensor, key: Tensor, cos: Tensor, sin: Tensor, inverse: bool) -> tuple[Tensor, Tensor]:
        cos, sin = cos[:, None], (-sin if inverse else sin)[:, None]

        def rotated(tensor: Tensor) -> Tensor:
            first, second = tensor.to(inner_dtype(tensor)).chunk(2, -1)
            out = torch.empty(tensor.shape, dtype=first.dtype, device=tensor.device)
            out_first, out_second = out.chunk(2, -1)
            torch.mul(first, cos, out=out_first).addcmul_(second, sin, value=-1)
            torch.mul(second, cos, out=out_second).addcmul_(first, sin)
            return out.to(tensor.dtype)

        return rotated(query), rotated(key)

    def rms_norm(self, x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
        h = x.to(inner_dtype(x))
        inverse_rms = torch.rsqrt(h.pow(2).mean(-1, keepdim=True) + epsilon)
        return (h * inverse_rms).to(x.dtype).mul_(weight), inverse_rms.squeeze(-1)

    def rms_norm_gradient(self, x: Tensor, weight: Tensor, inverse_rms: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
        inner, scale = inner_dtype(x), inverse_rms.unsqueeze(-1)
        normal, grad, factor = x.to(inner) * scale, grad.to(inner), weight.to(inner)
        by_weight = (grad * normal).flatten(0, -2).sum(0)
        mean = (grad * factor).mul_(normal).mean(-1, keepdim=True)
        by_x = normal.mul_(-mean).addcmul_(grad, factor).mul_(scale)
        return by_x.to(x.dtype), by_weight.to(weight.dtype)
