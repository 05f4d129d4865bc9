"""Matrix products whose sums keep their digits, and products that add into a buffer of another precision."""

import torch
from torch import Tensor


def product(a: Tensor, b: Tensor, out: Tensor) -> None:
    """out [M, N] = a [M, K] @ b [K, N].

    The CPU's fp32 GEMM adds up all K products of a short matrix in one chain: over a whole vocabulary that costs two
    digits. Blocks of K, each added up on its own, cost nothing and keep them."""
    if a.device.type != "cpu" or a.dtype != torch.float32:
        torch.mm(a, b, out=out)
        return
    out.zero_()
    for start in range(0, a.shape[1], 1024):
        out += a[:, start : start + 1024] @ b[start : start + 1024]


def add_product(total: Tensor, a: Tensor, b: Tensor) -> None:
    """total [M, N] += a [M, K] @ b [K, N], in total's dtype."""
    if total.dtype == a.dtype:
        torch.addmm(total, a, b, out=total)
    elif total.device.type != "cpu" and total.dtype == torch.float32:
        torch.addmm(total, a, b, out_dtype=total.dtype, out=total)
    else:  # the CPU has no GEMM of mixed precision: convert a block at a time
        b = b.to(total.dtype)
        for start in range(0, len(total), 1024):
            block = total[start : start + 1024]
            torch.addmm(block, a[start : start + 1024].to(total.dtype), b, out=block)
