"""Preference optimization on pairs of answers (paper, section 3.4): the loss, its per-pair margin and its metrics."""

from collections.abc import Callable
from itertools import pairwise
from typing import Any, Protocol

import torch
from torch import Tensor

from editcaption_mega.data.batching.batch import PackedBatch
from editcaption_mega.kernels import PreferenceLossConfig, linear_preference, sequence_sums
from editcaption_mega.kernels.preference_losses import pair_losses
from editcaption_mega.records.pair import FAILURE_MODES

from .margins import FactsByNumber, pair_margins
from .objective import Objective, RowLoss
from .reference_agreement import Agreement


def preference_loss(
    policy_chosen: Tensor,
    policy_rejected: Tensor,
    reference_chosen: Tensor | None,
    reference_rejected: Tensor | None,
    *,
    loss: str = "sigmoid",
    beta: float = 0.1,
    label_smoothing: float = 0.0,
    margin: float | Tensor = 0.0,
    nll_weight: float = 0.0,
    chosen_lengths: Tensor | None = None,
    rejected_lengths: Tensor | None = None,
) -> Tensor:
    """The preference loss of N pairs [N] from the summed log-probs of their answers [N] (any float dtype).

    Formulas: `kernels.PreferenceLossConfig`. reference_*: None for simpo, which has none. margin: one for all or one
    per pair [N]. *_lengths [N]: tokens of each answer, for losses per token (ipo, sigmoid_norm, simpo) and for NLL.
    Training computes the same in the kernel that computes the log-probs. ValueError names what is missing or wrong."""
    per_pair = torch.as_tensor(margin, dtype=policy_chosen.dtype, device=policy_chosen.device)
    preference = PreferenceLossConfig(loss=loss, beta=beta, label_smoothing=label_smoothing, nll_weight=nll_weight)
    needs_lengths = preference.per_token or nll_weight > 0
    if needs_lengths and (chosen_lengths is None or rejected_lengths is None):
        raise ValueError(
            f"preference_loss: {loss if preference.per_token else 'the NLL term'} divides by the tokens of the "
            "answers: give `chosen_lengths` and `rejected_lengths`"
        )
    given = [tensor is not None for tensor in (reference_chosen, reference_rejected)]
    if given != [not preference.reference_free] * 2:
        expected = "None for both: it has no reference" if preference.reference_free else "[N] log-probs for both"
        raise ValueError(
            f"preference_loss: {loss} expects `reference_chosen` and `reference_rejected` to be {expected}"
        )
    tensors = {"policy_rejected": policy_rejected, "reference_chosen": reference_chosen}
    tensors |= {"reference_rejected": reference_rejected}
    for name, tensor in tensors.items():
        if tensor is not None and tensor.shape != policy_chosen.shape:
            raise ValueError(
                f"preference_loss: `{name}` has shape {list(tensor.shape)}, `policy_chosen` {list(policy_chosen.shape)}"
            )
    sums = torch.stack((policy_chosen, policy_rejected), dim=1)
    reference = None
    if reference_chosen is not None and reference_rejected is not None:
        reference = torch.stack((reference_chosen, reference_rejected), dim=1)
    lengths = torch.ones_like(sums)
    if needs_lengths and chosen_lengths is not None and rejected_lengths is not None:
        lengths = torch.stack((chosen_lengths, rejected_lengths), dim=1).to(sums)
    return pair_losses(preference, sums, reference, lengths, per_pair.expand_as(policy_chosen)).loss


class Reference(Protocol):
    """Log-probs of the answers under the reference model."""

    def prepare(self, micro_batches: list[PackedBatch], length: int) -> None:
        """Make sure that `tokens` knows these micro-batches. Collective."""

    def tokens(self, batch: PackedBatch) -> Tensor:
        """Log-probs of the row's response tokens [T] fp32, on the row's device."""


REFERENCE_FILE = "reference.jsonl"  # of the run folder: the log-probs of a stored reference
HELD_OUT_REFERENCE_FILE = "reference_held_out.jsonl"  # those of the held-out pairs

# Per pair, in this order; the first is 1.
STATISTICS = (
    "pairs", "loss", "reward_chosen", "reward_rejected", "reward_accuracy", "chosen_drift", "rejected_drift", "kl",
    "chosen_tokens", "rejected_tokens",
)  # fmt: skip
OF_REFERENCE = {"chosen_drift", "rejected_drift", "kl"}


class DPOObjective(Objective):
    """loss = mean over the pairs of a step of the preference's loss (paper, eq. 2: sigmoid).

    Metrics, over all pairs and over those of each failure mode (`orientation/reward_margin`, .., and `loss`):
    reward_chosen, reward_rejected  beta (log-prob - reference), per token for the losses that are
    reward_margin, reward_accuracy  their difference; share of pairs with chosen above rejected
    chosen_drift, rejected_drift    log-prob - reference of a whole answer, in nats: DPO may lower both
    kl                              estimate of KL(policy || reference) per token: mean over the tokens of both answers
                                    of r - 1 - log r, r = reference / policy (Schulman's k3). The answers were not
                                    sampled from today's policy, so it is a measure of drift, not an unbiased estimate
    chosen_tokens, rejected_tokens  lengths of the answers
    answers_apart                   at the first step: answers in which policy and reference round apart (`Agreement`)
    """

    name = "dpo"
    answers = "preference"
    files = (REFERENCE_FILE, HELD_OUT_REFERENCE_FILE)
    shown_metrics = {"reward_margin": "margin", "reward_accuracy": "accuracy"}
    blank_with = {"reward_accuracy": "answers_apart"}  # policy and reference are equal: it counts roundings
    better = {"loss": "lower", "reward_margin": "higher", "reward_accuracy": "higher"}

    def __init__(
        self,
        preference: PreferenceLossConfig,
        reference: Reference | None,
        pairs: FactsByNumber,
        *,
        per_mode: bool,
        agreement: Agreement | None = None,
        reference_weights: str = "",
    ):
        """pairs: by the samples' numbers. per_mode: metrics per failure mode too. agreement: set while policy and
        reference must still be the same model. reference_weights: the digest of the reference's, which a resumed run
        must find."""
        assert (reference is None) == preference.reference_free
        self.preference, self.reference, self.pairs = preference, reference, pairs
        self.agreement, self.reference_weights = agreement, reference_weights
        self._apart: int | None = None  # what the agreement counted, until the step's metrics have it
        self.groups = ("", *FAILURE_MODES) if per_mode else ("",)
        self.num_statistics = len(self.groups) * len(STATISTICS)

    @property
    def identity(self) -> dict[str, str]:
        return {"reference_weights": self.reference_weights} if self.reference_weights else {}

    @property
    def head(self) -> Callable[..., Any]:
        return self._pair_losses

    def prepare(self, micro_batches: list[PackedBatch], length: int) -> None:
        if self.reference is not None:
            self.reference.prepare(micro_batches, length)

    def _pair_losses(
        self, hidden: Tensor, weight: Tensor, batch: PackedBatch, **options: Any
    ) -> tuple[Tensor | None, ...]:
        """-> loss [N], token log-probs [T], rewards [N, 2], the reference's token log-probs [T] (None without one).

        A plain tuple: Megatron's Float16Module rebuilds what a model returns."""
        bounds = torch.tensor(batch.response_bounds)
        tokens = sums = None
        if self.reference is not None:
            tokens = self.reference.tokens(batch)
            sums = sequence_sums(tokens, bounds)
        margin = self._margins(batch, sums, hidden)
        out = linear_preference(hidden, weight, batch.targets, bounds, sums, self.preference, margin, **options)
        return out.loss, out.log_probs.detach(), out.rewards.detach(), tokens

    def _margins(self, batch: PackedBatch, sums: Tensor | None, like: Tensor) -> Tensor | None:
        facts = [self.pairs[sample] for sample in batch.sample_numbers]
        if not any(pair.margin or pair.hardness_margin for pair in facts):
            return None
        lengths = [float(last - first) for first, last in pairwise(batch.response_bounds)]
        tokens = _on_device(torch.tensor(lengths, dtype=torch.float32), like).view(-1, 2)
        return pair_margins(facts, None if sums is None else sums.view(-1, 2), tokens, self.preference)

    def row_loss(self, output: tuple[Tensor | None, ...], batch: PackedBatch) -> RowLoss:
        loss, log_probs, rewards, reference = output
        assert loss is not None and log_probs is not None and rewards is not None, "only a reference may be absent"
        if self.agreement is not None:
            assert reference is not None, "what is compared with the policy is a reference"
            self.agreement.compare(log_probs, reference, batch)
        return RowLoss(loss.sum(), log_probs, self._statistics(loss, rewards, log_probs, reference, batch))

    def count(self, response_tokens: int, samples: int) -> int:
        return samples

    def check_step(self, loss: float, gather: Callable[[Any], list[Any]]) -> None:
        """Raises ValueError when policy and reference are not the same model at a step where they must be."""
        if self.agreement is not None:
            agreement, self.agreement = self.agreement, None
            self._apart = agreement.check(loss, gather)

    def _statistics(
        self, loss: Tensor, rewards: Tensor, log_probs: Tensor, reference: Tensor | None, batch: PackedBatch
    ) -> Tensor:
        """Sums over the pairs of each group [groups, STATISTICS] fp64, flat."""
        rewards = rewards.double()
        lengths = [last - first for first, last in pairwise(batch.response_bounds)]
        tokens = _on_device(torch.tensor(lengths, dtype=torch.float64), rewards).view(-1, 2)
        drift, kl = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
        if reference is not None:
            bounds = torch.tensor(batch.response_bounds)
            ratio = (reference - log_probs).double()
            drift = -sequence_sums(ratio.float(), bounds).double().view(-1, 2)
            kl = sequence_sums((ratio.exp() - 1 - ratio).float(), bounds).double().view(-1, 2).sum(1)
        columns = [torch.ones_like(kl), loss.detach().double(), *rewards.unbind(1)]
        columns += [(rewards[:, 0] > rewards[:, 1]).double(), *drift.unbind(1), kl, *tokens.unbind(1)]
        facts = [self.pairs[sample] for sample in batch.sample_numbers]
        members = [[float(not group or group in pair.failure_modes) for pair in facts] for group in self.groups]
        members = _on_device(torch.tensor(members, dtype=torch.float64), rewards)
        return (members @ torch.stack(columns, dim=1)).flatten()

    def metrics(self, statistics: Tensor) -> dict[str, float]:
        metrics: dict[str, float] = {}
        if self._apart is not None:
            metrics["answers_apart"], self._apart = float(self._apart), None
        for group, values in zip(self.groups, statistics.view(len(self.groups), -1).tolist(), strict=True):
            sums = dict(zip(STATISTICS, values, strict=True))
            pairs = sums.pop("pairs")
            if not pairs:
                continue  # no pair of this failure mode in the step
            answers = sums["chosen_tokens"] + sums["rejected_tokens"]
            means = {name: value / (answers if name == "kl" else pairs) for name, value in sums.items()}
            means["reward_margin"] = means["reward_chosen"] - means["reward_rejected"]
            if self.reference is None:
                means = {name: value for name, value in means.items() if name not in OF_REFERENCE}
            if not group:
                del means["loss"]  # the step has it
            prefix = f"{group}/" if group else ""
            metrics |= {f"{prefix}{name}": value for name, value in means.items()}
            if group:
                metrics[f"{prefix}pairs"] = pairs
        return metrics


def _on_device(numbers: Tensor, like: Tensor) -> Tensor:
    """A few numbers of the host where `like` is. The host does not wait (see `kernels.library_common.bounds_on`)."""
    return numbers.to(like.device, non_blocking=True)
