"""Attention over packed segments on this device against fp32 on the CPU, in the forms that the model uses, and its
speed."""

import statistics
from collections.abc import Callable
from itertools import accumulate

import torch
import torch.nn.functional as F
from benches.measuring import launch_seconds, timed
from torch import Tensor
from torch.nn.attention import SDPBackend, sdpa_kernel

from editcaption_mega.model.attention import Cuts, segment_attention, use_flash_attention

from .figures import Figure, Figures, Machine, relative_error

MOST = 2e-2  # bf16 keeps 8 bits
# name: heads, kv heads, head size, lengths of segments, lengths of their keys, causal
CASES = {
    "packed rows, grouped queries": (16, 2, 128, (100, 37, 260), (100, 37, 260), True),
    "shared prompt, two answers": (16, 2, 128, (240, 40), (240, 220), True),
    "pictures, heads of 72": (16, 16, 72, (256, 400), (256, 400), False),
    "pictures, heads of 64": (16, 16, 64, (64, 1024), (64, 1024), False),
}


# name: segments, tokens of each, heads, kv heads, head size, causal
SPEEDS = {
    "pictures of 1280 tokens": (4, 5120, 16, 16, 64, False),
    "samples of 2B": (3, 2560, 16, 8, 128, True),
    "a row of one sample": (1, 8192, 16, 1, 128, True),
}


def run(machine: Machine) -> Figures:
    yield from _compared(machine, "")
    yield from _speeds(machine)
    try:
        use_flash_attention(3)
    except ValueError as reason:
        yield Figure("with FlashAttention-3", "not used", note=str(reason).partition(":")[0])
        return
    try:
        yield from _compared(machine, ", FlashAttention-3")
    finally:
        use_flash_attention(2)


def _compared(machine: Machine, suffix: str) -> Figures:
    dtype = torch.bfloat16 if machine.on_gpu else torch.float32
    for name, case in CASES.items():
        truth = _attend(torch.device("cpu"), torch.float32, *case)
        errors = list(map(relative_error, _attend(machine.device, dtype, *case), truth))
        note = "output, dq, dk, dv: " + " ".join(f"{error:.1e}" for error in errors)
        yield Figure(name + suffix, max(errors), "", note, most=MOST)


def _speeds(machine: Machine) -> Figures:
    """What the model calls, and cuDNN's attention over the same segments, which takes equal ones alone."""
    for name, (count, tokens, *form) in SPEEDS.items():
        count, tokens = machine.size((count, tokens), (2, 64))
        heads, kv_heads, size, causal = form
        dtype = machine.size(torch.bfloat16, torch.float32)
        total = count * tokens
        query, key, value = (
            torch.randn(total, n, size, device=machine.device, dtype=dtype, requires_grad=True)
            for n in (heads, kv_heads, kv_heads)
        )
        cuts = Cuts.of(tuple(range(0, total + 1, tokens)), machine.device)

        def ours(query=query, key=key, value=value, cuts=cuts, causal=causal, size=size) -> Tensor:
            return segment_attention(query, key, value, cuts, causal=causal, scale=size**-0.5)

        def dense(query=query, key=key, value=value, count=count, causal=causal) -> Tensor:
            batched = (tensor.unflatten(0, (count, -1)).transpose(1, 2) for tensor in (query, key, value))
            grouped = query.size(1) != key.size(1)
            with sdpa_kernel(SDPBackend.CUDNN_ATTENTION if machine.on_gpu else SDPBackend.MATH):
                out = F.scaled_dot_product_attention(*batched, is_causal=causal, enable_gqa=grouped)
            return out.transpose(1, 2).flatten(0, 1)

        pairs = count * tokens**2 * heads * size / (2 if causal else 1)
        for way, attend in (("ours", ours), ("cuDNN", dense)):
            try:
                seconds = _forward_and_backward(attend, [query, key, value], machine)
            except RuntimeError as error:
                yield Figure(f"{name}: {way}", "not run", "", str(error).splitlines()[0][:160])
                continue
            for direction, products, spent in zip(("forward", "backward"), (4, 10), seconds, strict=True):
                yield Figure(f"{name}: {way}, {direction}", products * pairs / spent, "FLOP/s", f"{1e3 * spent:.3g} ms")


def _forward_and_backward(attend: Callable[[], Tensor], inputs: list[Tensor], machine: Machine) -> tuple[float, float]:
    """Seconds of each."""
    out = attend()
    upstream = torch.randn_like(out)

    def backward() -> None:
        torch.autograd.grad(out, inputs, upstream, retain_graph=True)

    seconds = []
    for work in (attend, backward):
        work()
        launching = launch_seconds(work, machine.device)
        runs = range(machine.size(5, 2))
        seconds.append(statistics.median(timed(work, machine.device, launching=launching) for _ in runs))
    return seconds[0], seconds[1]


def _attend(
    device: torch.device,
    dtype: torch.dtype,
    heads: int,
    kv_heads: int,
    head_size: int,
    lengths: tuple[int, ...],
    key_lengths: tuple[int, ...],
    causal: bool,
) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    tokens, keys = sum(lengths), sum(key_lengths)
    shapes = ((tokens, heads, head_size), (keys, kv_heads, head_size), (keys, kv_heads, head_size))
    inputs = [torch.randn(shape, generator=generator).to(device, dtype).requires_grad_() for shape in shapes]
    upstream = torch.randn(shapes[0], generator=generator).to(device)
    cuts, key_cuts = (Cuts.of((0, *accumulate(parts)), device) for parts in (lengths, key_lengths))
    out = segment_attention(*inputs, cuts, key_cuts, causal=causal, scale=head_size**-0.5)
    (out.float() * upstream).sum().backward()
    return [out, *(tensor.grad for tensor in inputs)]
