"""The backend's own contract: statistics with entropy, shards, padding, gradients in place, and number formats."""

import pytest
import torch

from editcaption_mega.kernels import available_backends
from editcaption_mega.kernels.backends import MODULES
from editcaption_mega.kernels.operators import finish

BACKENDS = [name for name in available_backends() if name != "cuda"]


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16], ids=str)
def test_statistics_and_entropy(backend, dtype):
    logits = (torch.randn(4, 33000, generator=torch.Generator().manual_seed(0)) * 4).to(dtype)
    logits[1, :20000] = -torch.inf
    targets = torch.tensor([0, 32999, 16384, 7])
    stats = MODULES[backend].stats(logits, targets, 0, 33000, entropy=True)
    exact = logits.double()
    assert torch.equal(stats[:, 0], logits.float().amax(-1))
    rest = (exact - exact.amax(-1, True)).exp().sum(-1) - 1
    torch.testing.assert_close(stats[:, 1].double(), rest, atol=0, rtol=2e-6)
    assert torch.equal(stats[:, 2], logits.float()[torch.arange(4), targets])
    entropy = stats[:, 1].log1p() - stats[:, 3] / (1 + stats[:, 1])
    p = exact.softmax(-1)
    torch.testing.assert_close(entropy.double(), -torch.special.xlogy(p, p).sum(-1), atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("cuts", [[0, 64, 128, 192, 256], [0, 128, 256]])
def test_shards_with_targets_on_every_edge(backend, cuts):
    """Split by hand, merged: the same values; the last shard is partly (or wholly) padding."""
    logits = torch.randn(8, 256, generator=torch.Generator().manual_seed(1))
    targets = torch.tensor([0, 63, 64, 127, 128, 190, 1, 189])
    vocab, width, module = 191, cuts[1], MODULES[backend]
    upstream = torch.arange(8.0) - 3
    parts = [(logits[:, a:b], a, min(max(vocab - a, 0), width)) for a, b in zip(cuts, cuts[1:], strict=False)]
    gathered = torch.stack([module.stats(z, targets, offset, valid) for z, offset, valid in parts])
    found, lse = finish(gathered, targets // width)
    exact = logits[:, :vocab].double().requires_grad_()
    expected = exact.log_softmax(-1).gather(1, targets[:, None])[:, 0]
    torch.testing.assert_close(found.double(), expected, atol=1e-6, rtol=1e-6)
    (want,) = torch.autograd.grad(expected, exact, upstream.double())
    for z, offset, valid in parts:
        kept, buffer = z.clone(), z.clone()
        grad = module.gradient(z, targets, lse, upstream, offset, valid, in_place=False)
        in_place = module.gradient(buffer, targets, lse, upstream, offset, valid, in_place=True)
        assert torch.equal(z, kept) and in_place.data_ptr() == buffer.data_ptr() and torch.equal(grad, in_place)
        torch.testing.assert_close(grad[:, :valid].double(), want[:, offset : offset + valid], atol=1e-6, rtol=1e-5)
        assert not grad[:, valid:].any() and not grad[3].any()


@pytest.mark.parametrize("backend", BACKENDS)
def test_padding_may_hold_anything(backend):
    logits = torch.randn(2, 40)
    expected = MODULES[backend].stats(logits[:, :30].contiguous(), torch.tensor([0, 29]), 0, 30)
    logits[:, 30:] = torch.nan
    assert torch.equal(MODULES[backend].stats(logits, torch.tensor([0, 29]), 0, 30), expected)
    lse = torch.stack((expected[:, 0], expected[:, 1].log1p()), 1)
    grad = MODULES[backend].gradient(logits, torch.tensor([0, 29]), lse, torch.ones(2), 0, 30, in_place=True)
    assert torch.isfinite(grad).all()


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the extension isn't built")
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=str)
def test_every_16_bit_number_is_read_as_pytorch_reads_it(dtype):
    bits = torch.arange(-(2**15), 2**15, dtype=torch.int16)
    values = bits.view(dtype)
    values = values[~values.isnan()]
    one = values[:, None].contiguous()  # one column: the maximum and the target's logit are the number itself
    stats = MODULES["cpu"].stats(one, torch.zeros(len(values), dtype=torch.int64), 0, 1)
    assert torch.equal(stats[:, 0], values.float()) and torch.equal(stats[:, 2], values.float())


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the extension isn't built")
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
    grad = MODULES["cpu"].gradient(logits, elsewhere, torch.zeros(len(scale), 2), scale, 0, 1, in_place=False)
    assert torch.equal(grad[:, 0], (-scale).to(dtype))


@pytest.mark.skipif("cpu" not in BACKENDS, reason="the extension isn't built")
def test_exp_is_within_one_and_a_half_units_in_the_last_place():
    x = -torch.cat((torch.linspace(0, 87.3, 400001), torch.logspace(-12, 1.9, 100000)))
    rows = torch.zeros(1, len(x))
    rows[0] = x
    lse = torch.zeros(1, 2)
    grad = MODULES["cpu"].gradient(rows, torch.tensor([-1]), lse, -torch.ones(1), 0, len(x), in_place=False)[0]
    exact = x.double().exp()
    ulp = torch.nextafter(exact.float(), torch.tensor(torch.inf)).double() - exact.float().double()
    assert ((grad.double() - exact).abs() / ulp).max() < 1.5
    beyond = torch.tensor([[-87.4, -100.0, -1e30, -torch.inf, torch.nan]])
    grad = MODULES["cpu"].gradient(beyond, torch.tensor([-1]), lse, -torch.ones(1), 0, 5, in_place=False)[0]
    assert not grad[:4].any() and grad[4].isnan()
