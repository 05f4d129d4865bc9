"""The backend's own contract: statistics with entropy, shards, padding, gradients in place, and number formats."""

import pytest
import torch

from editcaption_mega.kernels import PreferenceLossConfig, available_backends
from editcaption_mega.kernels.backends import BACKENDS
from editcaption_mega.settings.losses import LOSSES

needs_extension = pytest.mark.skipif("cpu" not in available_backends(), reason="the extension isn't built")


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_statistics_and_details(backend, dtype):
    logits = (torch.randn(4, 33000, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    logits[1, :20000] = -torch.inf
    logits[2, 500:502] = logits[2].max() + 1  # two at the top: the first one is the argmax
    targets = torch.tensor([0, 32999, 16384, 7])
    module = BACKENDS[backend]
    parts = module.parts(4, 33000)
    stats = module.stats(logits, targets, 0, 33000, parts, True)
    final = module.finalize(stats, 33000)
    exact = logits.double()
    assert torch.equal(final.lse[:, 0], logits.float().amax(-1))
    rest = (exact - exact.amax(-1, True)).exp().sum(-1) - 1
    torch.testing.assert_close(final.lse[:, 1].double(), rest.log1p(), atol=0, rtol=2e-6)
    assert torch.equal(stats[:, :, 2].amax(0), logits.float()[torch.arange(4), targets])
    entropy, mean, argmax = final.details.unbind(1)
    p = exact.softmax(-1)
    torch.testing.assert_close(entropy.double(), -torch.special.xlogy(p, p).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(mean.double(), exact.mean(-1), atol=1e-6, rtol=1e-5)
    assert torch.equal(argmax.long(), exact.argmax(-1)) and argmax[2] == 500
    plain = module.finalize(module.stats(logits, targets, 0, 33000, parts, False), 33000)
    assert torch.equal(plain.log_probs, final.log_probs) and torch.equal(plain.lse, final.lse)


@pytest.mark.parametrize("cuts", [[0, 64, 128, 192, 256], [0, 128, 256]])
def test_shards_with_targets_on_every_edge(backend, cuts):
    """Split by hand, merged: the same values; the last shard is partly (or wholly) padding."""
    logits = torch.randn(8, 256, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 63, 64, 127, 128, 190, 1, 189])
    vocab, width, module = 191, cuts[1], BACKENDS[backend]
    upstream = torch.arange(8.0) - 3
    shards = [(logits[:, a:b], a, min(max(vocab - a, 0), width)) for a, b in zip(cuts, cuts[1:], strict=False)]
    gathered = torch.cat([module.stats(z, targets, offset, valid, 1, True) for z, offset, valid in shards])
    found = module.finalize(gathered, vocab)
    exact = logits[:, :vocab].double().requires_grad_()
    expected = exact.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.log_probs.double(), expected, atol=1e-6, rtol=1e-6)
    p = exact.softmax(-1)
    torch.testing.assert_close(found.details[:, 0].double(), -(p * p.log()).sum(-1), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(found.details[:, 1].double(), exact.mean(-1), atol=1e-6, rtol=1e-5)
    assert torch.equal(found.details[:, 2].long(), exact.argmax(-1))
    (want,) = torch.autograd.grad(expected, exact, upstream.double())
    for z, offset, valid in shards:
        kept, buffer = z.clone(), z.clone()
        rows = (targets, found.log_probs, found.lse, upstream)
        grad = module.gradient(z, *rows, offset, valid, in_place=False)
        in_place = module.gradient(buffer, *rows, offset, valid, in_place=True)
        assert torch.equal(z, kept) and in_place.data_ptr() == buffer.data_ptr() and torch.equal(grad, in_place)
        torch.testing.assert_close(grad[:, :valid].double(), want[:, offset : offset + valid], atol=1e-6, rtol=1e-5)
        assert not grad[:, valid:].any() and not grad[3].any()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
@pytest.mark.parametrize("start", range(9))
def test_rows_that_start_and_end_anywhere(backend, dtype, start):
    """Every alignment of a row's first and last column against 16 bytes, also with another one of the gradient's."""
    wide = torch.randn(3, 1203, generator=torch.Generator().manual_seed(start)).to(dtype)
    logits = wide[:, start : 1203 - 3 * start]
    cols, targets = logits.shape[1], torch.tensor([0, 17, logits.shape[1] - 1])
    module = BACKENDS[backend]
    for valid in (cols, cols - 5):
        targets = targets.clamp(max=valid - 1)
        final = module.finalize(module.stats(logits, targets, 0, valid, 1, False), valid)
        exact = logits[:, :valid].double()
        expected = exact.log_softmax(-1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(final.log_probs.double(), expected, atol=2e-6, rtol=1e-6)
        upstream = torch.tensor([1.0, -0.5, 2.0])
        rows = (targets, final.log_probs, final.lse, upstream)
        grad = module.gradient(logits, *rows, 0, valid, in_place=False)
        want = (torch.nn.functional.one_hot(targets, valid) - exact.softmax(-1)) * upstream[:, None]
        eps = torch.finfo(dtype).eps
        torch.testing.assert_close(grad[:, :valid].double(), want, atol=2**-24, rtol=max(0.51 * eps, 5e-6))
        assert not grad[:, valid:].any()
        copy = wide.clone()
        inner = copy[:, start : 1203 - 3 * start]
        module.gradient(inner, *rows, 0, valid, in_place=True)
        assert torch.equal(inner, grad), "in place or not, the same bits"
        inner.copy_(logits)
        assert torch.equal(copy, wide), "nothing outside the matrix is written"


def test_a_few_rows_are_cut_into_parts(backend):
    logits = torch.randn(2, 33000, generator=torch.Generator().manual_seed(9))
    targets = torch.tensor([8191, 32999])
    module = BACKENDS[backend]
    found = [
        module.finalize(module.stats(logits, targets, 0, 33000, parts, False), 33000).log_probs
        for parts in {1, module.parts(2, 33000)}
    ]
    for values in found:
        expected = logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0]
        torch.testing.assert_close(values.double(), expected, atol=2e-6, rtol=1e-6)
    assert module.parts(0, 33000) == 1 and module.parts(10**6, 33000) == 1


@pytest.mark.parametrize("loss", LOSSES)
def test_finalize_agrees_with_plain_pytorch(backend, loss):
    """Several parts, answers of different lengths (one longer than a block of threads), all losses and settings."""
    g = torch.Generator().manual_seed(3)
    bounds = torch.tensor([0, 2, 5, 300, 301])
    stats = torch.randn(3, 301, 6, generator=g)
    stats[:, :, 1] = stats[:, :, 1].abs()
    stats[:, :, 2] -= 3
    stats[1, 7] = torch.tensor([-torch.inf, -1, -torch.inf, 0, 0, 0])  # a part that is all padding
    stats[:, :, 5] = torch.arange(3.0)[:, None]
    smoothing = 0.1 if LOSSES[loss].smoothed else 0.0
    config = PreferenceLossConfig(loss, beta=0.7, label_smoothing=smoothing, margin=0.2, nll_weight=0.3)
    reference = None if config.reference_free else -5 * torch.rand(4, generator=g)
    for width in (4, 6):
        arguments = (stats[:, :, :width].contiguous(), 99, bounds, config, reference, torch.rand(2, generator=g))
        found = BACKENDS[backend].finalize(*arguments)
        expected = BACKENDS["torch"].finalize(*arguments)
        for name, value in found._asdict().items():
            torch.testing.assert_close(value, getattr(expected, name), atol=1e-6, rtol=2e-6, msg=name)
    sums = BACKENDS[backend].finalize(stats, 99, bounds).sums
    torch.testing.assert_close(sums, expected.sums, atol=0, rtol=1e-6)
    assert BACKENDS[backend].finalize(stats, 99).sums.shape == (0,)


def test_padding_may_hold_anything(backend):
    logits, targets, module = torch.randn(2, 40), torch.tensor([0, 29]), BACKENDS[backend]
    expected = module.stats(logits, targets, 0, 30, 1, False)
    assert torch.isfinite(expected).all()
    logits[:, 30:] = torch.nan
    assert torch.equal(module.stats(logits, targets, 0, 30, 1, False), expected)
    final = module.finalize(expected, 30)
    grad = module.gradient(logits, targets, final.log_probs, final.lse, torch.ones(2), 0, 30, in_place=True)
    assert torch.isfinite(grad).all()


@needs_extension
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_number_is_read_as_pytorch_reads_it(dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    values = bits.view(dtype)
    values = values[~values.isnan()]
    one = values[:, None].contiguous()  # one column: the maximum and the target's logit are the number itself
    stats = BACKENDS["cpu"].stats(one, torch.zeros(len(values), dtype=torch.int64), 0, 1)[0]
    assert torch.equal(stats[:, 0], values.float()) and torch.equal(stats[:, 2], values.float())


@needs_extension
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_gradients_are_rounded_as_pytorch_rounds(dtype):
    """With z = max and log_sum = 0 the gradient is -row_grad exactly, so the store's rounding is seen alone."""
    g = torch.Generator().manual_seed(2)
    scale = torch.cat((torch.randn(20000, generator=g), torch.tensor([65503.0, 65504.0, 65519.9, 65520.0, 1e9, 2e38])))
    tiny = torch.randn(20000, generator=g) * 2.0 ** torch.randint(-28, -10, (20000,), generator=g)
    scale = torch.cat((scale, tiny, scale * 300, torch.tensor([2**-24, 2**-25, 3 * 2**-26, 1.5 * 2**-24])))
    scale = scale[scale != 0]
    logits = torch.zeros(len(scale), 1, dtype=dtype)
    elsewhere = torch.full((len(scale),), 5)  # the target belongs to another shard
    grad = BACKENDS["cpu"].gradient(logits, elsewhere, scale, torch.zeros(len(scale), 2), scale, 0, 1, in_place=False)
    assert torch.equal(grad[:, 0], (-scale).to(dtype))


@needs_extension
def test_exp_is_within_one_and_a_half_units_in_the_last_place():
    x = -torch.cat((torch.linspace(0, 87.3, 400001), torch.logspace(-12, 1.9, 100000)))
    rows = torch.zeros(1, len(x))
    rows[0] = x
    lse = torch.zeros(1, 2)
    grad = BACKENDS["cpu"].gradient(
        rows, torch.tensor([-1]), lse[:, 0], lse, -torch.ones(1), 0, len(x), in_place=False
    )[0]
    exact = x.double().exp()
    ulp = torch.nextafter(exact.float(), torch.tensor(torch.inf)).double() - exact.float().double()
    assert ((grad.double() - exact).abs() / ulp).max() < 1.5
    beyond = torch.tensor([[-87.4, -100.0, -1e30, -torch.inf, torch.nan]])
    grad = BACKENDS["cpu"].gradient(beyond, torch.tensor([-1]), lse[:, 0], lse, -torch.ones(1), 0, 5, in_place=False)[0]
    assert not grad[:4].any() and grad[4].isnan()
