"""Margins of a pair's own, against values computed by hand; alike in the kernels and in plain PyTorch."""

import math
from types import SimpleNamespace

import pytest
import torch

from editcaption_mega.kernels import PreferenceLossConfig, available_backends, linear_preference
from editcaption_mega.objectives import DPOObjective, PairFacts, pair_margins, preference_loss, reference_hardness

# Two pairs: the reference prefers the chosen answer of the first by 4 nats, the rejected one of the second by 2.
SUMS = torch.tensor([[-10.0, -14.0], [-12.0, -10.0]])
LENGTHS = torch.tensor([[5.0, 7.0], [6.0, 4.0]])
FACTS = [PairFacts(("orientation",), 0.25, 0.5), PairFacts(("detail",), 0.0, 1.0)]


def sigma(x):
    return 1 / (1 + math.exp(-x))


def test_hardness_is_how_sure_the_reference_is_of_the_wrong_answer():
    whole = reference_hardness(SUMS, LENGTHS, PreferenceLossConfig("sigmoid", 0.5))
    assert whole.tolist() == pytest.approx([sigma(-2.0), sigma(1.0)])
    per_token = reference_hardness(SUMS, LENGTHS, PreferenceLossConfig("sigmoid_norm", 2.0))
    assert per_token.tolist() == pytest.approx([sigma(2 * (-14 / 7 + 10 / 5)), sigma(2 * (-10 / 4 + 12 / 6))])


def test_margins_by_hand():
    margins = pair_margins(FACTS, SUMS, LENGTHS, PreferenceLossConfig("sigmoid", 0.5))
    assert margins.tolist() == pytest.approx([0.25 + 0.5 * sigma(-2.0), sigma(1.0)])
    plain = [PairFacts((), 0.25), PairFacts()]
    assert pair_margins(plain, None, LENGTHS, PreferenceLossConfig("simpo", 0.5)).tolist() == [0.25, 0.0]


def test_the_loss_with_margins_by_hand():
    """At the start of training policy and reference are equal, so z = - margin."""
    config = PreferenceLossConfig("sigmoid", 0.5)
    margins = pair_margins(FACTS, SUMS, LENGTHS, config)
    loss = preference_loss(*SUMS.unbind(1), *SUMS.unbind(1), beta=0.5, margin=margins)
    expected = [math.log1p(math.exp(0.25 + 0.5 * sigma(-2.0))), math.log1p(math.exp(sigma(1.0)))]
    assert loss.tolist() == pytest.approx(expected)


class FixedReference:
    def __init__(self, tokens):
        self._tokens = tokens

    def prepare(self, micro_batches, length):
        pass

    def tokens(self, batch):
        return self._tokens


@pytest.mark.parametrize("backend", [name for name in available_backends() if name != "cuda"])
@pytest.mark.parametrize("loss", ["sigmoid", "sigmoid_norm", "hinge"])
def test_training_computes_what_the_formula_says(backend, loss):
    generator = torch.Generator().manual_seed(1)
    lengths = [5, 7, 6, 4]
    bounds = [0, *torch.tensor(lengths).cumsum(0).tolist()]
    hidden = torch.randn(bounds[-1], 16, generator=generator, requires_grad=True)
    weight = torch.randn(64, 16, generator=generator)
    targets = torch.randint(64, (bounds[-1],), generator=generator)
    tokens = torch.randn(bounds[-1], generator=generator) - 2
    config = PreferenceLossConfig(loss, 0.5)
    batch = SimpleNamespace(response_bounds=bounds, sample_numbers=(0, 1), targets=targets)
    objective = DPOObjective(config, FixedReference(tokens), FACTS, per_mode=False)
    found, log_probs, _, _ = objective._pair_losses(hidden, weight, batch, backend=backend)

    def sums(values):
        return torch.stack([part.sum() for part in values.double().split(lengths)]).view(2, 2)

    policy, reference = sums(log_probs), sums(tokens)
    counts = torch.tensor(lengths, dtype=torch.float64).view(2, 2)
    scale = counts if config.per_token else torch.ones_like(counts)
    difference = (reference / scale)[:, 1] - (reference / scale)[:, 0]
    hardness = [sigma(0.5 * value) for value in difference.tolist()]
    margin = torch.tensor([0.25 + 0.5 * hardness[0], hardness[1]], dtype=torch.float64)
    expected = preference_loss(
        *policy.unbind(1), *reference.unbind(1), loss=loss, beta=0.5, margin=margin,
        chosen_lengths=counts[:, 0], rejected_lengths=counts[:, 1],
    )  # fmt: skip
    assert torch.allclose(found.double(), expected, atol=2e-5)
    off = DPOObjective(config, FixedReference(tokens), [PairFacts(), PairFacts()], per_mode=False)
    plain = off._pair_losses(hidden, weight, batch, backend=backend)[0]
    same = linear_preference(
        hidden, weight, targets, torch.tensor(bounds), sums(tokens).float().flatten(), config, None, backend=backend
    ).loss
    assert torch.equal(plain, same) and (plain < found).any()  # off: nothing is added at all
