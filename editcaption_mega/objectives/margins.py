"""By how much a pair's answers must be apart: its own margin, from what people say of it and how hard it is."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

from editcaption_mega.kernels import PreferenceLossConfig


@dataclass(frozen=True)
class PairFacts:
    """What the objective knows of a pair besides its tokens."""

    failure_modes: tuple[str, ...] = ()  # the primary one first
    margin: float = 0.0  # added to the margin of all pairs
    hardness_margin: float = 0.0  # and so much times the pair's hardness


class FactsByNumber(Protocol):
    """The facts of all pairs of a data set."""

    def __getitem__(self, sample: int, /) -> PairFacts: ...


def reference_hardness(sums: Tensor, lengths: Tensor, preference: PreferenceLossConfig) -> Tensor:
    """How sure the reference is of the wrong answer, 0 .. 1, of N pairs [N]: the share of the Bradley-Terry model,

        hardness = sigma(beta (reference(rejected) - reference(chosen)))

    with log-probs as the loss takes them: of whole answers, or per token. Ours: the paper's second version names the
    reference's hardness and prints no formula. sums [N, 2]: its log-probs of chosen and rejected; lengths [N, 2]: their
    tokens."""
    scores = sums / lengths if preference.per_token else sums
    return torch.sigmoid(preference.beta * (scores[:, 1] - scores[:, 0]))


def pair_margins(
    facts: Sequence[PairFacts], sums: Tensor | None, lengths: Tensor, preference: PreferenceLossConfig
) -> Tensor:
    """What is added to the margin of all pairs [N], in `lengths`' type and place.

    sums [N, 2]: the reference's log-probs of chosen and rejected, None without one; lengths [N, 2]. No gradient flows
    through it: the reference stays as it is."""
    of_hardness = [pair.hardness_margin for pair in facts]
    margin = _beside(torch.tensor([pair.margin for pair in facts], dtype=lengths.dtype), lengths)
    if any(of_hardness):
        assert sums is not None, "checked: hardness needs a reference"
        weight = _beside(torch.tensor(of_hardness, dtype=lengths.dtype), lengths)
        margin = margin + weight * reference_hardness(sums.detach().to(lengths), lengths, preference)
    return margin


def _beside(numbers: Tensor, like: Tensor) -> Tensor:
    """A few numbers of the host where `like` is. The host does not wait (see `kernels.library_common.bounds_on`)."""
    return numbers.to(like.device, non_blocking=True)
