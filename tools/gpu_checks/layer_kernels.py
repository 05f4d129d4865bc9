"""The kernels of a layer (RMSNorm, rotation, SwiGLU, experts' rows) on this device against fp64 on the CPU, and their
share of what a copy of as many bytes moves."""

import statistics
from collections.abc import Callable
from typing import NamedTuple

import torch
from benches.measuring import copy_bandwidth, launch_seconds, timed
from torch import Tensor

from editcaption_mega.kernels import chunk_order, expert_order, rms_norm, rotate, sum_rows, swiglu

from .figures import Figure, Figures, Machine, relative_error

MOST = {torch.float32: 1e-6, torch.bfloat16: 5e-3}  # in Frobenius norm; results are rounded once or twice
REPEATS = 10


class Sizes(NamedTuple):
    tokens: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    ffn: int
    experts: int
    top_k: int


SMALL = (Sizes(37, 72, 3, 1, 10, 7, 9, 3), Sizes(300, 2048, 4, 2, 128, 768, 128, 8))
LARGE = Sizes(8192, 4096, 16, 1, 128, 1536, 16, 2)  # of a rank of 235B at TP4 EP8
LARGE_ON_CPU = Sizes(64, 128, 4, 2, 32, 64, 16, 2)

Work = tuple[Callable[..., tuple[Tensor, ...]], list[Tensor], list[Tensor]]  # function, inputs, and what stays as it is


def run(machine: Machine) -> Figures:
    for dtype, most in MOST.items():
        for name in _works(SMALL[0], dtype, torch.device("cpu")):
            errors = [error for sizes in SMALL for error in _errors(name, sizes, dtype, machine)]
            note = f"values and gradients at {len(SMALL)} sizes"
            yield Figure(f"{name}, {str(dtype).removeprefix('torch.')}", max(errors), "", note, most=most)
    wrong = sum(_misplaced(sizes, machine) for sizes in (*SMALL, machine.size(LARGE, LARGE_ON_CPU)))
    yield Figure("experts' orders", float(wrong), "", "entries that differ from PyTorch's on the CPU", most=0)
    yield from _speeds(machine)


def _works(sizes: Sizes, dtype: torch.dtype, device: torch.device) -> dict[str, Work]:
    """Every operator with its inputs, the same on every device."""
    generator = torch.Generator().manual_seed(sizes.tokens)

    def draw(*shape: int) -> Tensor:
        return torch.randn(shape, generator=generator).to(device, dtype)

    scores = torch.randn(sizes.tokens, sizes.experts, generator=generator)
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(sizes.top_k, 1).indices, True)
    # Orders are PyTorch's on the CPU, so that what reads them is judged alone.
    order = expert_order(chosen, sizes.top_k, backend="torch")
    token_of_row, rows_of_token = order.token_of_row[:, None].to(device), order.rows_of_token.to(device)
    angles = 60 * torch.rand(sizes.tokens, sizes.head_size // 2, generator=generator)
    cos, sin = angles.cos().to(device), angles.sin().to(device)
    rows = len(token_of_row)
    probs = torch.rand(rows, generator=generator).to(device)

    def norm(x: Tensor, weight: Tensor) -> tuple[Tensor, ...]:
        return (rms_norm(x, weight, 1e-6),)

    def rotation(query: Tensor, key: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, ...]:
        return rotate(query, key, cos, sin)

    def gated(gate_up: Tensor, weights: Tensor) -> tuple[Tensor, ...]:
        return (swiglu(gate_up, weights),)

    def moved(source: Tensor, index: Tensor, inverse: Tensor) -> tuple[Tensor, ...]:
        return (sum_rows(source, index, inverse),)

    heads = draw(sizes.tokens, sizes.heads, sizes.head_size), draw(sizes.tokens, sizes.kv_heads, sizes.head_size)
    return {
        "RMSNorm": (norm, [draw(sizes.tokens, sizes.hidden), draw(sizes.hidden)], []),
        "rotation": (rotation, list(heads), [cos, sin]),
        "SwiGLU with probabilities": (gated, [draw(rows, 2 * sizes.ffn), probs], []),
        "rows to experts": (moved, [draw(sizes.tokens, sizes.hidden)], [token_of_row, rows_of_token]),
        "rows from experts": (moved, [draw(rows, sizes.hidden)], [rows_of_token, token_of_row]),
    }


def _errors(name: str, sizes: Sizes, dtype: torch.dtype, machine: Machine) -> list[float]:
    """Of each value and of each gradient."""
    ours = _results(*_works(sizes, dtype, machine.device)[name], dtype)
    function, inputs, constants = _works(sizes, dtype, torch.device("cpu"))[name]
    exact = [tensor.double() if tensor.is_floating_point() else tensor for tensor in constants]
    truth = _results(function, [tensor.double() for tensor in inputs], exact, dtype)
    return [relative_error(mine, true) for mine, true in zip(ours, truth, strict=True)]


def _results(function: Callable, inputs: list[Tensor], constants: list[Tensor], dtype: torch.dtype) -> list[Tensor]:
    """dtype: what upstream gradients are rounded to, also where fp64 is computed with."""
    leaves = [tensor.detach().clone().requires_grad_() for tensor in inputs]
    values = function(*leaves, *constants)
    generator = torch.Generator().manual_seed(3)
    upstream = [torch.randn(value.shape, generator=generator).to(dtype).to(value) for value in values]
    return [*values, *torch.autograd.grad(values, leaves, upstream)]


def _misplaced(sizes: Sizes, machine: Machine) -> int:
    """Entries of `expert_order` and `chunk_order` on the device that are others than PyTorch's on the CPU."""
    generator = torch.Generator().manual_seed(sizes.tokens)
    scores = torch.randn(sizes.tokens, sizes.experts, generator=generator)
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(sizes.top_k, 1).indices, True)
    counts = torch.randint(0, 40, (8, sizes.experts), generator=generator)
    rows = int(counts.sum())
    truth = [*expert_order(chosen, sizes.top_k, backend="torch"), *chunk_order(counts, rows, backend="torch")]
    device = machine.device
    ours = [*expert_order(chosen.to(device), sizes.top_k), *chunk_order(counts.to(device), rows)]
    return sum(int((mine.cpu() != true).sum()) for mine, true in zip(ours, truth, strict=True))


def _speeds(machine: Machine) -> Figures:
    """Forward and backward apart: bytes that must be read and written, by the time, against a copy's."""
    sizes, dtype = machine.size(LARGE, LARGE_ON_CPU), machine.size(torch.bfloat16, torch.float32)
    for name, (function, inputs, constants) in _works(sizes, dtype, machine.device).items():
        leaves = [tensor.requires_grad_() for tensor in inputs]
        values = function(*leaves, *constants)
        upstream = [torch.randn_like(value) for value in values]

        def forward(function=function, leaves=leaves, constants=constants) -> None:
            function(*leaves, *constants)

        def backward(values=values, leaves=leaves, upstream=upstream) -> None:
            torch.autograd.grad(values, leaves, upstream, retain_graph=True)

        reads = sum(map(_bytes, (*leaves, *constants)))
        # A gradient reads what went in, unless it moves or turns what comes back, and what comes back.
        needs_inputs = name.startswith(("RMSNorm", "SwiGLU"))
        moved = {
            "forward": reads + sum(map(_bytes, values)),
            "backward": (reads if needs_inputs else sum(map(_bytes, constants)))
            + sum(map(_bytes, upstream)) + sum(map(_bytes, leaves)),
        }  # fmt: skip
        for direction, work in (("forward", forward), ("backward", backward)):
            seconds = _median(work, machine)
            share = moved[direction] / seconds / copy_bandwidth(machine.device, moved[direction])
            note = f"{1e3 * seconds:.3g} ms, {moved[direction] / 2**20:.0f} MiB read and written"
            yield Figure(f"{name}, {direction}: share of copy", share, "", note, goal=0.9)

    yield from _order_times(sizes, machine)


def _median(work: Callable[[], object], machine: Machine) -> float:
    """Seconds of the kernels alone."""
    work(), work()
    launching = launch_seconds(work, machine.device)
    repeats = machine.size(REPEATS, 2)
    return statistics.median(timed(work, machine.device, launching=launching) for _ in range(repeats))


def _order_times(sizes: Sizes, machine: Machine) -> Figures:
    """What a layer of experts waits for before rows can move: no bytes to speak of, so the time itself."""
    scores = torch.randn(sizes.tokens, 128, device=machine.device)
    chosen = torch.zeros_like(scores, dtype=torch.bool).scatter(1, scores.topk(8, 1).indices, True)
    counts = torch.full((8, 16), sizes.tokens // 16, dtype=torch.int64, device=machine.device)
    works = {
        "expert_order of 128": lambda: expert_order(chosen, 8),
        "chunk_order of 8 x 16": lambda: chunk_order(counts, 8 * sizes.tokens),
    }
    for name, work in works.items():
        seconds = _median(work, machine)
        yield Figure(f"{name}, {sizes.tokens} tokens", 1e3 * seconds, "ms")


def _bytes(tensor: Tensor) -> int:
    return tensor.numel() * tensor.element_size()
