"""Sampling whose draws belong to the prompt, so that batching doesn't change them."""

import torch
from torch import Tensor

from editcaption_mega.data.batching.order import splitmix64


class RowSampler:
    """A logits processor that leaves one token per row, drawn by temperature and top-p.

    Row i draws from its own generator, seeded by (seed, the prompt's number): the same prompt draws the same numbers in
    any batch. A draw inverts the distribution's cumulative sum in the order of the token's probability; the generators
    live on the CPU, so the draws are also the same on every device.
    """

    def __init__(self, seed: int, numbers: list[int], temperature: float, top_p: float) -> None:
        self.temperature, self.top_p = temperature, top_p
        self.generators = [torch.Generator().manual_seed(_stream(seed, number)) for number in numbers]

    def __call__(self, input_ids: Tensor, scores: Tensor) -> Tensor:
        """scores [rows, V] -> the same shape, -inf but for the drawn token's 0."""
        probabilities, tokens = (
            (scores.float() / self.temperature).softmax(-1).sort(dim=-1, descending=True, stable=True)
        )
        total = probabilities.double().cumsum(-1)
        probabilities = probabilities.double().masked_fill(total - probabilities >= self.top_p, 0.0)
        total = probabilities.cumsum(-1)
        draws = torch.stack([torch.rand((), generator=g, dtype=torch.float64) for g in self.generators])
        bound = draws.to(scores.device)[:, None] * total[:, -1:]
        index = torch.searchsorted(total, bound, right=True)
        last = (probabilities > 0).sum(-1, keepdim=True) - 1  # rounding must not step past what top_p keeps
        chosen = tokens.gather(1, torch.minimum(index, last))
        return torch.full_like(scores, -torch.inf).scatter_(1, chosen, 0.0)


def _stream(seed: int, number: int) -> int:
    """A 63-bit seed from two integers, so that near pairs give unrelated streams."""
    value = seed * 0x9E3779B97F4A7C15 + number * 0xD1B54A32D192ED03 + 0x2545F4914F6CDD1D
    return splitmix64(value & (2**64 - 1)) >> 1
