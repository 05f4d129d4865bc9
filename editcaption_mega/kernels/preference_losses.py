"""Which preference loss, and its formulas on log-probs of whole answers: the readable form of csrc/finalize_math.h."""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from editcaption_mega.settings.losses import LOSSES, Shape


@dataclass(frozen=True)
class PreferenceLossConfig:
    """A preference loss, with reward = beta * (log-prob - reference), z = reward(chosen) - reward(rejected) - margin:

    sigmoid       softplus(-z)                                       DPO, Rafailov et al. 2023 (the paper, eq. 2)
                  (1 - s) softplus(-z) + s softplus(z)               with label_smoothing s: conservative DPO
    robust        ((1 - s) softplus(-z) - s softplus(z)) / (1 - 2 s) Chowdhury et al. 2024
    hinge         max(0, 1 - z)                                      SLiC, Zhao et al. 2023
    ipo           ((z - 1/2) / beta)^2, log-probs per token          Azar et al. 2024, eq. 17
    sigmoid_norm  as sigmoid, log-probs per token                    length-normalized DPO
    simpo         as sigmoid_norm, without a reference               Meng et al. 2024; its gamma is `margin`

    margin: the same for every pair; one per pair is added to it. nll_weight: how much of the chosen answer's mean
    negative log-likelihood per token is added to the loss. ValueError for settings that make no sense.
    """

    loss: str = "sigmoid"
    beta: float = 0.1
    label_smoothing: float = 0.0
    margin: float = 0.0
    nll_weight: float = 0.0

    def __post_init__(self) -> None:
        if self.loss not in LOSSES:
            raise ValueError(f"loss is {self.loss!r}, expected one of {', '.join(LOSSES)}")
        if not 0 < self.beta < float("inf"):
            raise ValueError(f"beta={self.beta} must be above 0 and finite")
        if self.label_smoothing and not LOSSES[self.loss].smoothed:
            raise ValueError(f"label_smoothing={self.label_smoothing} has no meaning for {self.loss}: set it to 0")
        if not 0 <= self.label_smoothing < 0.5:
            raise ValueError(f"label_smoothing={self.label_smoothing} must lie in [0, 0.5)")
        if not 0 <= self.nll_weight < float("inf"):
            raise ValueError(f"nll_weight={self.nll_weight} must be at least 0 and finite")
        if not abs(self.margin) < float("inf"):
            raise ValueError(f"margin={self.margin} must be finite")

    @property
    def shape(self) -> Shape:
        return LOSSES[self.loss].shape

    @property
    def per_token(self) -> bool:
        return LOSSES[self.loss].per_token

    @property
    def reference_free(self) -> bool:
        return LOSSES[self.loss].reference_free


class PairLosses(NamedTuple):
    loss: Tensor  # [N]
    rewards: Tensor  # [N, 2], of the chosen and the rejected answer
    scales: Tensor  # [N, 2], the loss's derivative by each token's log-prob of either answer


def pair_losses(
    config: PreferenceLossConfig, sums: Tensor, reference: Tensor | None, lengths: Tensor, margin: Tensor | None
) -> PairLosses:
    """sums, reference: summed log-probs of the answers [N, 2] (chosen, rejected); lengths: their tokens [N, 2];
    margin: [N] or None. Computed in the dtype of `sums`, and differentiable by them."""
    per_token = 1 / lengths if config.per_token else torch.ones_like(sums)
    rewards = config.beta * per_token * (sums if reference is None else sums - reference)
    z = rewards[:, 0] - rewards[:, 1] - config.margin
    if margin is not None:
        z = z - margin
    s = config.label_smoothing
    softplus = torch.nn.functional.softplus
    if config.shape == "hinge":
        loss, slope = torch.relu(1 - z), -(z < 1).to(z.dtype)
    elif config.shape == "ipo":
        loss, slope = ((z - 0.5) / config.beta) ** 2, 2 * (z - 0.5) / config.beta**2
    else:
        other, norm = (-s, 1 - 2 * s) if config.shape == "robust" else (s, 1.0)
        loss = ((1 - s) * softplus(-z) + other * softplus(z)) / norm
        slope = (other * torch.sigmoid(z) - (1 - s) * torch.sigmoid(-z)) / norm
    nll = config.nll_weight / lengths[:, 0]
    loss = loss - nll * sums[:, 0]
    by_reward = config.beta * per_token * slope[:, None]
    return PairLosses(loss, rewards, torch.stack((by_reward[:, 0] - nll, -by_reward[:, 1]), dim=1))
