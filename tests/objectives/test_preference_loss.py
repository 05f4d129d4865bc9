"""Preference losses and their gradients against TRL's own code on the same logits."""

from collections import defaultdict
from types import SimpleNamespace

import pytest
import torch

from editcaption_mega.kernels import PreferenceLossConfig, preference
from editcaption_mega.objectives import preference_loss
from editcaption_mega.settings.losses import LOSSES
from tests.helpers import ROOT

pytest.importorskip("trl")
from trl.experimental.cpo.cpo_trainer import CPOTrainer  # noqa: E402
from trl.trainer.dpo_trainer import DPOTrainer  # noqa: E402

BAR = 1e-6
VOCABULARY = 61
LENGTHS = ((5, 3), (1, 7), (4, 4))  # response tokens of (chosen, rejected) of each pair


class Pairs:
    """Random logits for the response tokens of some pairs, and a reference that isn't far away."""

    def __init__(self, lengths, dtype=torch.float64):
        generator = torch.Generator().manual_seed(3)
        self.lengths = torch.tensor(lengths)
        flat = [n for pair in lengths for n in pair]
        self.bounds = torch.tensor([0, *flat]).cumsum(0)
        total = sum(flat)
        self.logits = 3 * torch.randn(total, VOCABULARY, generator=generator, dtype=dtype)
        self.targets = torch.randint(VOCABULARY, (total,), generator=generator)
        truth = self.sums(self.logits).detach()
        self.reference = (truth + 2 * torch.randn(truth.shape, generator=generator, dtype=dtype)).float()

    def tokens(self, logits):
        return logits.log_softmax(-1).gather(1, self.targets[:, None])[:, 0]

    def sums(self, logits):
        """[N, 2]"""
        return torch.stack([part.sum() for part in self.tokens(logits).split(self.lengths.flatten().tolist())]).view(
            -1, 2
        )


def trl_dpo(pairs: Pairs, loss_types, weights, beta, label_smoothing=0.0):
    """TRL's DPOTrainer._compute_loss on these pairs -> loss and the gradient by the logits."""
    logits = pairs.logits.clone().requires_grad_()
    count, longest = len(pairs.lengths), int(pairs.lengths.max())
    order = [2 * i + answer for answer in (0, 1) for i in range(count)]  # TRL: all chosen, then all rejected
    rows, mask = [], torch.zeros(2 * count, longest + 1, dtype=torch.long)
    parts = pairs.tokens(logits).split(pairs.lengths.flatten().tolist())
    for row, sequence in enumerate(order):
        rows.append(torch.nn.functional.pad(parts[sequence], (0, longest - len(parts[sequence]))))
        mask[row, 1 : 1 + len(parts[sequence])] = 1
    log_probs = torch.stack(rows)
    blank = torch.zeros_like(log_probs)

    def model(**_):
        return SimpleNamespace(log_probs=log_probs, entropy=blank, mean_logits=blank, is_top1=blank.bool())

    trainer = SimpleNamespace(
        model=SimpleNamespace(training=True),
        accelerator=SimpleNamespace(device="cpu", gather_for_metrics=lambda x: x, gather=lambda x: x),
        aux_loss_enabled=False, ld_alpha=None, precompute_ref_logps=True, f_divergence_type="reverse_kl",
        loss_types=loss_types, loss_weights=weights, beta=beta, label_smoothing=label_smoothing, use_weighting=False,
        _metrics={"train": defaultdict(list)}, _total_train_tokens=0, _tp_size=1,
    )  # fmt: skip
    reference = pairs.reference.double()
    inputs = {
        "input_ids": torch.zeros_like(mask), "attention_mask": mask, "completion_mask": mask,
        "ref_chosen_logps": reference[:, 0], "ref_rejected_logps": reference[:, 1],
    }  # fmt: skip
    loss = DPOTrainer._compute_loss(trainer, model, inputs, False)
    loss.backward()
    return loss.detach(), logits.grad


def trl_cpo(pairs: Pairs, loss_type, beta, *, gamma=0.0, label_smoothing=0.0):
    """TRL's CPOTrainer.cpo_loss. It has SimPO and the smoothed sigmoid, on whatever log-probs it is given."""
    logits = pairs.logits.clone().requires_grad_()
    sums = pairs.sums(logits)
    values = sums / pairs.lengths if loss_type == "simpo" else sums - pairs.reference.double()
    trainer = SimpleNamespace(
        alpha=0.0, accelerator=SimpleNamespace(device="cpu"), loss_type=loss_type, beta=beta, simpo_gamma=gamma,
        label_smoothing=label_smoothing,
    )  # fmt: skip
    loss = CPOTrainer.cpo_loss(trainer, values[:, 0], values[:, 1])[0].mean()
    loss.backward()
    return loss.detach(), logits.grad


def trl(pairs, config: PreferenceLossConfig):
    if config.loss == "simpo":
        return trl_cpo(pairs, "simpo", config.beta, gamma=config.margin)
    if config.loss == "sigmoid" and config.label_smoothing:  # conservative DPO, which DPOTrainer no longer has
        return trl_cpo(pairs, "sigmoid", config.beta, label_smoothing=config.label_smoothing)
    types, weights = [config.loss], [1.0]
    if config.nll_weight:
        types, weights = [config.loss, "sft"], [1.0, config.nll_weight]
    return trl_dpo(pairs, types, weights, config.beta, config.label_smoothing)


CASES = [
    PreferenceLossConfig("sigmoid", 0.1),
    PreferenceLossConfig("sigmoid", 0.7),
    PreferenceLossConfig("sigmoid", 0.3, label_smoothing=0.1),
    PreferenceLossConfig("robust", 0.3, label_smoothing=0.2),
    PreferenceLossConfig("hinge", 0.2),
    PreferenceLossConfig("ipo", 0.4),
    PreferenceLossConfig("sigmoid_norm", 2.0),
    PreferenceLossConfig("simpo", 2.5, margin=0.8),
]


def close(found, expected):
    return (found - expected).abs().max() <= BAR * max(1.0, expected.abs().max())


# A loss that TRL does not have -> the test that compares it with autograd of its formula.
NOT_IN_TRL: dict[str, str] = {}


def test_every_loss_is_compared():
    """With TRL, or where TRL has no such loss, in a test of its own, which must name it."""
    assert {case.loss for case in CASES} | set(NOT_IN_TRL) == set(LOSSES)
    for loss, path in NOT_IN_TRL.items():
        assert f'"{loss}"' in (ROOT / path).read_text(encoding="utf-8")


@pytest.mark.parametrize("config", CASES, ids=str)
def test_training_operator_equals_trl(config):
    """The kernel from fp32 logits: loss and gradient by the logits."""
    pairs = Pairs(LENGTHS)
    expected, gradient = trl(pairs, config)
    logits = pairs.logits.float().requires_grad_()
    reference = None if config.reference_free else pairs.reference.flatten()
    out = preference(logits, pairs.targets, pairs.bounds, reference, config)
    out.loss.mean().backward()
    assert close(out.loss.mean().detach(), expected) and close(logits.grad, gradient)


@pytest.mark.parametrize("config", CASES, ids=str)
def test_readable_form_equals_trl(config):
    pairs = Pairs(LENGTHS)
    expected, gradient = trl(pairs, config)
    logits = pairs.logits.clone().requires_grad_()
    sums = pairs.sums(logits)
    reference = [None, None] if config.reference_free else pairs.reference.double().unbind(1)
    loss = preference_loss(
        *sums.unbind(1), *reference, loss=config.loss, beta=config.beta, label_smoothing=config.label_smoothing,
        margin=config.margin, chosen_lengths=pairs.lengths[:, 0], rejected_lengths=pairs.lengths[:, 1],
    ).mean()  # fmt: skip
    loss.backward()
    assert close(loss.detach(), expected) and close(logits.grad, gradient)


@pytest.mark.parametrize("weight", [0.05, 1.0])
@pytest.mark.parametrize("lengths", LENGTHS)
def test_nll_term_equals_trl(lengths, weight):
    """One pair at a time: TRL takes the mean over the tokens of the batch, ours over each answer's."""
    pairs, config = Pairs([lengths]), PreferenceLossConfig("sigmoid", 0.1, nll_weight=weight)
    expected, gradient = trl(pairs, config)
    logits = pairs.logits.float().requires_grad_()
    out = preference(logits, pairs.targets, pairs.bounds, pairs.reference.flatten(), config)
    out.loss.sum().backward()
    assert close(out.loss[0].detach(), expected) and close(logits.grad, gradient)


@pytest.mark.parametrize("loss", ["sigmoid", "robust", "hinge", "sigmoid_norm"])
def test_margin_per_pair_shifts_the_reward_difference(loss):
    """A margin is what a reference that prefers the chosen answer by that much would do."""
    pairs, beta = Pairs(LENGTHS), 0.5
    margin = torch.tensor([0.0, 0.4, 1.5])
    config = PreferenceLossConfig(loss, beta)
    found = preference(
        pairs.logits.float(), pairs.targets, pairs.bounds, pairs.reference.flatten(), config, margin=margin
    ).loss
    shifted = pairs.reference.double().clone()
    shifted[:, 0] += margin / beta * (pairs.lengths[:, 0] if config.per_token else 1)
    pairs.reference = shifted
    expected, _ = trl(pairs, config)
    assert close(found.mean(), expected)


def values(count=3):
    return [torch.zeros(count) for _ in range(4)]


@pytest.mark.parametrize(
    "change, words",
    [
        (dict(beta=0), "beta=0 must be above 0"),
        (dict(beta=-1.0), "beta=-1.0 must be above 0"),
        (dict(loss="dpo"), "loss is 'dpo', expected one of sigmoid"),
        (dict(label_smoothing=0.5), r"label_smoothing=0.5 must lie in \[0, 0.5\)"),
        (dict(loss="hinge", label_smoothing=0.1), "no meaning for hinge"),
        (dict(loss="ipo"), "ipo divides by the tokens of the answers: give `chosen_lengths`"),
        (dict(nll_weight=1.0), "the NLL term divides by the tokens"),
    ],
)
def test_settings_that_make_no_sense(change, words):
    with pytest.raises(ValueError, match=words):
        preference_loss(*values(), **change)


def test_tensors_that_do_not_fit():
    with pytest.raises(ValueError, match="sigmoid expects `reference_chosen` and .* log-probs for both"):
        preference_loss(*values()[:2], None, None)
    chosen, rejected, *reference = values()
    with pytest.raises(ValueError, match=r"`policy_rejected` has shape \[2\], `policy_chosen` \[3\]"):
        preference_loss(chosen, rejected[:2], *reference)
