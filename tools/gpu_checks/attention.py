"""Attention over packed segments on this device against fp32 on the CPU, in the forms that the model uses."""

from itertools import accumulate

import torch
from torch import Tensor

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


def run(machine: Machine) -> Figures:
    yield from _compared(machine, "")
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
