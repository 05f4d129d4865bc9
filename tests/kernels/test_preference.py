"""Preference losses, rewards and gradients against fp64 autograd of the formulas as TRL writes them."""

import pytest
import torch
import torch.nn.functional as F

from editcaption_mega.kernels import PreferenceLossConfig, linear_preference, preference, sequence_sums

CU_SEQLENS = torch.tensor([0, 3, 8, 9, 30, 300, 301])  # three pairs, one answer longer than a block of threads
ROWS, VOCAB = 301, 67
CASES = {
    "sigmoid": PreferenceLossConfig(),
    "sigmoid, steep": PreferenceLossConfig(beta=3.0),
    "conservative": PreferenceLossConfig(label_smoothing=0.2),
    "robust": PreferenceLossConfig("robust", label_smoothing=0.1),
    "hinge": PreferenceLossConfig("hinge", beta=0.5),
    "ipo": PreferenceLossConfig("ipo", beta=0.3),
    "length-normalized": PreferenceLossConfig("sigmoid_norm", beta=2.0),
    "simpo": PreferenceLossConfig("simpo", beta=2.0, margin=1.4),
    "margin and nll": PreferenceLossConfig(margin=0.3, nll_weight=0.7),
}


def inputs(seed=0):
    g = torch.Generator().manual_seed(seed)
    logits = torch.randn(ROWS, VOCAB, generator=g) * 2
    targets = torch.randint(0, VOCAB, (ROWS,), generator=g)
    reference = -4 * CU_SEQLENS.diff() + torch.randn(6, generator=g)
    return logits, targets, reference, torch.rand(3, generator=g), torch.randn(3, generator=g)


def trl(config, log_probs, reference, margin):
    """trl.DPOTrainer's and trl.CPOTrainer's (simpo) expressions, with a margin (ODPO) and RPO's NLL term added."""
    sums = torch.stack([part.sum() for part in log_probs.split(CU_SEQLENS.diff().tolist())])
    length = CU_SEQLENS.diff().double()
    scores = sums if config.loss == "simpo" else sums - reference.double()
    if config.loss in ("ipo", "sigmoid_norm", "simpo"):
        scores = scores / length
    margin = margin.double() + config.margin
    delta = scores[0::2] - scores[1::2] - margin / config.beta
    s = config.label_smoothing
    loss = {
        "sigmoid": -F.logsigmoid(config.beta * delta) * (1 - s) - F.logsigmoid(-config.beta * delta) * s,
        "robust": (-F.logsigmoid(config.beta * delta) * (1 - s) + F.logsigmoid(-config.beta * delta) * s) / (1 - 2 * s),
        "hinge": torch.relu(1 - config.beta * delta),
        "ipo": (delta - 1 / (2 * config.beta)) ** 2,
        "sigmoid_norm": -F.logsigmoid(config.beta * delta),
        "simpo": -F.logsigmoid(config.beta * delta),
    }[config.loss]
    loss = loss - config.nll_weight * sums[0::2] / length[0::2]
    return loss, config.beta * scores.view(3, 2), sums


@pytest.mark.parametrize("case", CASES)
def test_losses_and_gradients(backend, case):
    config = CASES[case]
    logits, targets, reference, margin, upstream = inputs()
    mine = logits.clone().requires_grad_()
    given = None if config.reference_free else reference
    found = preference(mine, targets, CU_SEQLENS, given, config, margin, backend=backend)
    (grad,) = torch.autograd.grad(found.loss, mine, upstream)
    exact = logits.double().requires_grad_()
    log_probs = exact.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    loss, rewards, sums = trl(config, log_probs, reference, margin)
    (want,) = torch.autograd.grad(loss, exact, upstream.double())
    torch.testing.assert_close(found.log_probs.double(), log_probs, atol=2e-6, rtol=1e-6)
    torch.testing.assert_close(found.sequence_log_probs.double(), sums, atol=1e-5, rtol=1e-6)
    torch.testing.assert_close(found.loss.double(), loss, atol=1e-6, rtol=5e-6)
    torch.testing.assert_close(found.rewards.double(), rewards, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grad.double(), want, atol=1e-6, rtol=1e-5)
    assert grad.abs().max() > 1e-3, "a case without gradient shows nothing"


def test_far_from_zero_nothing_overflows(backend):
    logits, targets, reference, _, _ = inputs()
    for shift in (-1e5, 1e5):
        moved = reference + shift * torch.tensor([1.0, -1.0] * 3)
        for config in CASES.values():
            mine = logits.clone().requires_grad_()
            found = preference(
                mine, targets, CU_SEQLENS, None if config.reference_free else moved, config, backend=backend
            )
            (grad,) = torch.autograd.grad(found.loss.sum(), mine)
            assert torch.isfinite(found.loss).all() and torch.isfinite(grad).all()


def test_tokens_sequences_and_pairs_all_carry_gradients(backend):
    """Upstream gradients into every differentiable output at once add up."""
    logits, targets, reference, margin, upstream = inputs()
    config = CASES["sigmoid"]
    g = torch.Generator().manual_seed(1)
    by_token, by_sequence = torch.randn(ROWS, generator=g), torch.randn(6, generator=g)
    mine = logits.clone().requires_grad_()
    found = preference(mine, targets, CU_SEQLENS, reference, config, margin, backend=backend)
    total = (found.loss * upstream).sum() + (found.log_probs * by_token).sum()
    (grad,) = torch.autograd.grad(total + (found.sequence_log_probs * by_sequence).sum(), mine)
    exact = logits.double().requires_grad_()
    log_probs = exact.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    loss, _, sums = trl(config, log_probs, reference, margin)
    total = (loss * upstream).sum() + (log_probs * by_token).sum() + (sums * by_sequence).sum()
    (want,) = torch.autograd.grad(total, exact)
    torch.testing.assert_close(grad.double(), want, atol=2e-6, rtol=1e-5)


@pytest.mark.parametrize("max_logits_bytes", [1 << 30, 100 * VOCAB * 4], ids=["one buffer", "chunks"])
def test_linear_form(backend, max_logits_bytes):
    _, targets, reference, margin, upstream = inputs()
    g = torch.Generator().manual_seed(2)
    hidden, weight = torch.randn(ROWS, 16, generator=g), torch.randn(VOCAB, 16, generator=g)
    config = CASES["margin and nll"]
    x, w = hidden.clone().requires_grad_(), weight.clone().requires_grad_()
    found = linear_preference(
        x, w, targets, CU_SEQLENS.int(), reference, config, margin, backend=backend, max_logits_bytes=max_logits_bytes
    )
    grads = torch.autograd.grad(found.loss, (x, w), upstream)
    x64, w64 = hidden.double().requires_grad_(), weight.double().requires_grad_()
    log_probs = (x64 @ w64.T).log_softmax(-1).gather(1, targets[:, None])[:, 0]
    loss, _, _ = trl(config, log_probs, reference, margin)
    torch.testing.assert_close(found.loss.double(), loss, atol=1e-5, rtol=5e-6)
    for ours, want in zip(grads, torch.autograd.grad(loss, (x64, w64), upstream.double()), strict=True):
        torch.testing.assert_close(ours.double(), want, atol=1e-5, rtol=1e-4)


def test_no_pairs(backend):
    empty = torch.zeros(0, VOCAB, requires_grad=True)
    targets = torch.zeros(0, dtype=torch.int64)
    found = preference(empty, targets, torch.tensor([0]), torch.zeros(0), PreferenceLossConfig(), backend=backend)
    assert found.loss.shape == (0,) and found.rewards.shape == (0, 2)
    assert torch.autograd.grad(found.loss.sum(), empty)[0].shape == (0, VOCAB)


def test_under_torch_compile(backend):
    logits, targets, reference, margin, _ = inputs()
    mine = logits.clone().requires_grad_()

    def loss(x):
        return preference(x, targets, CU_SEQLENS, reference, CASES["sigmoid"], margin, backend=backend).loss.sum()

    (found,) = torch.autograd.grad(torch.compile(loss, backend="aot_eager", fullgraph=True)(mine), mine)
    (want,) = torch.autograd.grad(loss(mine), mine)
    torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-6)


def test_two_runs_agree_to_the_bit(backend):
    logits, targets, reference, margin, _ = inputs()
    mine = logits.clone().requires_grad_()

    def run():
        found = preference(mine, targets, CU_SEQLENS, reference, PreferenceLossConfig(), margin, backend=backend)
        return (*(part.detach() for part in found), *torch.autograd.grad(found.loss.sum(), mine))

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


def test_sequence_sums():
    values = torch.randn(ROWS, generator=torch.Generator().manual_seed(3)).requires_grad_()
    bounds = torch.tensor([0, 0, 5, 5, 300, 301], dtype=torch.int32)  # empty sequences sum to 0
    found = sequence_sums(values, bounds)
    expected = torch.stack([part.sum() for part in values.detach().double().split(bounds.diff().tolist())])
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    upstream = torch.arange(5.0)
    (grad,) = torch.autograd.grad(found, values, upstream)
    assert torch.equal(grad, upstream.repeat_interleave(bounds.diff()))


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"loss": "dpo"}, "loss is 'dpo', expected one of sigmoid"),
        ({"beta": 0.0}, "beta=0.0 must be above 0"),
        ({"beta": -1.0}, "beta=-1.0 must be above 0"),
        ({"beta": float("nan")}, "beta=nan must be above 0"),
        ({"label_smoothing": 0.5}, "label_smoothing=0.5 must lie in"),
        ({"loss": "hinge", "label_smoothing": 0.1}, "label_smoothing=0.1 has no meaning for hinge"),
        ({"nll_weight": -1.0}, "nll_weight=-1.0 must be at least 0"),
        ({"margin": float("inf")}, "margin=inf must be finite"),
    ],
)
def test_settings_that_make_no_sense(settings, message):
    with pytest.raises(ValueError, match=message):
        PreferenceLossConfig(**settings)
