"""Values and gradients of both operators against fp64 autograd, for every backend that this machine has."""

import pytest
import torch

from editcaption_mega.kernels import available_backends, linear_log_probs, log_probs

DTYPES = [torch.float32, torch.bfloat16, torch.float16]
SIZES = [(64, 7), (33, 512), (3, 32768), (1, 50001), (2, 151936)]


def truth(logits, targets):
    return logits.double().log_softmax(-1).gather(1, targets[:, None])[:, 0]


def make(rows, vocab, dtype, hidden=24, seed=0):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(rows, hidden, generator=g).to(dtype).requires_grad_()
    w = torch.randn(vocab, hidden, generator=g).to(dtype).requires_grad_()
    return x, w, torch.randint(0, vocab, (rows,), generator=g), torch.randn(rows, generator=g)


def close(found, expected, plain):
    """Our error is never above the plain path's own in this dtype, plus 1e-6 of the largest value."""
    ours, theirs = ((one.double() - expected).abs().max() for one in (found, plain))
    assert ours <= theirs + 1e-6 * expected.abs().max(), f"{ours:.2e} against {theirs:.2e}"


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "vocab"), SIZES)
def test_linear_log_probs_and_both_gradients(backend, dtype, rows, vocab):
    x, w, targets, upstream = make(rows, vocab, dtype)
    found = linear_log_probs(x, w, targets, backend=backend)
    assert found.dtype == torch.float32 and found.shape == (rows,)
    got = torch.autograd.grad((found * upstream).sum(), (x, w))
    x64, w64 = (t.detach().double().requires_grad_() for t in (x, w))
    expected = truth(x64 @ w64.T, targets)
    want = torch.autograd.grad((expected * upstream).sum(), (x64, w64))
    plain = truth_in_dtype(x @ w.T, targets)
    plain_grads = torch.autograd.grad((plain * upstream).sum(), (x, w))
    close(found, expected, plain)
    if dtype == torch.float32:
        torch.testing.assert_close(found.double(), expected, atol=1e-5, rtol=0)
    for ours, exact, theirs in zip(got, want, plain_grads, strict=True):
        assert ours.dtype == dtype
        close(ours, exact, theirs)


def truth_in_dtype(logits, targets):
    return logits.float().log_softmax(-1).gather(1, targets[:, None])[:, 0]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("rows", "vocab"), SIZES)
def test_log_probs_are_exact_for_the_given_logits(backend, dtype, rows, vocab):
    """From logits nothing is lost but fp32 rounding, whatever the logits' dtype, and the gradient is rounded once."""
    g = torch.Generator().manual_seed(1)
    logits = (torch.randn(rows, vocab, generator=g) * 3).to(dtype).requires_grad_()
    before = logits.detach().clone()
    targets = torch.randint(0, vocab, (rows,), generator=g)
    upstream = torch.randn(rows, generator=g)
    found = log_probs(logits, targets, backend=backend)
    (grad,) = torch.autograd.grad(found, logits, upstream)
    exact = logits.detach().double().requires_grad_()
    expected = truth(exact, targets)
    (want,) = torch.autograd.grad(expected, exact, upstream.double())
    torch.testing.assert_close(found.double(), expected, atol=3e-6, rtol=1e-6)
    eps = torch.finfo(dtype).eps
    tiny = torch.finfo(dtype).smallest_normal if dtype != torch.float16 else 2**-24
    torch.testing.assert_close(grad.double(), want, atol=tiny, rtol=max(0.51 * eps, 5e-6))
    assert torch.equal(logits.detach(), before), "the caller's logits are never changed"


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_no_rows(backend, dtype):
    x, w, targets, _ = make(0, 512, dtype)
    found = linear_log_probs(x, w, targets, backend=backend)
    assert found.shape == (0,)
    grads = torch.autograd.grad(found.sum(), (x, w))
    assert [tuple(g.shape) for g in grads] == [(0, 24), (512, 24)] and not grads[1].any()
    assert log_probs(torch.zeros(0, 9, dtype=dtype), targets, backend=backend).shape == (0,)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_minus_infinity_columns(backend, dtype):
    """Forbidden tokens have probability 0 and gradient 0, also when they fill whole blocks of columns."""
    g = torch.Generator().manual_seed(2)
    logits = torch.randn(4, 40000, generator=g).to(dtype)
    logits[:, 100:36000] = -torch.inf
    logits[2, :36001] = -torch.inf
    logits.requires_grad_()
    targets = torch.tensor([0, 39999, 36002, 200])
    found = log_probs(logits, targets, backend=backend)
    torch.testing.assert_close(found.double(), truth(logits, targets), atol=3e-6, rtol=1e-6)
    assert found[3] == -torch.inf
    (grad,) = torch.autograd.grad(found[:3].sum(), logits)
    assert torch.isfinite(grad).all() and not grad[0, 100:36000].any() and not grad[3].any()


def test_not_a_number_is_never_hidden(backend):
    logits = torch.zeros(4, 5000)
    logits[0, 3000] = torch.nan
    logits[1] = -torch.inf
    logits[2] = torch.nan
    logits[3, 7] = torch.inf
    assert log_probs(logits, torch.zeros(4, dtype=torch.int64), backend=backend).isnan().all()


def test_gradient_near_certainty(backend):
    """At p = 1 - 1e-5 or 1 - 1e-11 the log-prob and the target's gradient keep the digits that 1 - p has in fp64."""
    logits = torch.zeros(3, 5000)
    logits[:, 5] = torch.tensor([14.0, 20.0, 34.0])
    logits.requires_grad_()
    targets = torch.tensor([5, 5, 5])
    found = log_probs(logits, targets, backend=backend)
    (grad,) = torch.autograd.grad(found.sum(), logits)
    exact = logits.detach().double()
    less = exact[:, :5].exp().sum(-1) + exact[:, 6:].exp().sum(-1)
    want = less / (less + exact[:, 5].exp())  # 1 - p, in a form that fp64 holds to its last digits
    torch.testing.assert_close(found.double(), torch.log1p(-want), atol=0, rtol=3e-6)
    torch.testing.assert_close(grad[:, 5].double(), want, atol=0, rtol=3e-6)
    torch.testing.assert_close(grad[:, 0].double(), -exact.softmax(-1)[:, 0], atol=0, rtol=1e-5)
    bf16 = logits.detach().bfloat16().requires_grad_()
    (rounded,) = torch.autograd.grad(log_probs(bf16, targets, backend=backend).sum(), bf16)
    torch.testing.assert_close(rounded[:, 5].double(), want, atol=0, rtol=2**-8)  # 1 - p in bf16 would be 0


def test_logits_ten_thousand_times_too_large(backend):
    g = torch.Generator().manual_seed(3)
    logits = (torch.randn(16, 512, generator=g) * 1e4).requires_grad_()
    logits.data[0, 10:12] = logits.data[0].max() + 1.0  # a tie at the top: log 0.5, to all its digits
    targets = logits.argmax(-1)
    targets[1] = (targets[1] + 1) % 512
    found = log_probs(logits, targets, backend=backend)
    torch.testing.assert_close(found.double(), truth(logits, targets), atol=1e-6, rtol=1e-6)
    (grad,) = torch.autograd.grad(found.sum(), logits)
    assert torch.isfinite(grad).all()


def test_adding_a_constant_to_a_row_changes_nothing(backend):
    logits = torch.randint(-8, 8, (8, 512), generator=torch.Generator().manual_seed(4)).float()
    targets = torch.arange(8)
    assert torch.equal(log_probs(logits, targets, backend=backend), log_probs(logits + 1024, targets, backend=backend))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_two_runs_agree_to_the_bit(backend, dtype):
    x, w, targets, upstream = make(5, 32768, dtype)

    def run():
        found = linear_log_probs(x, w, targets, backend=backend)
        return (found.detach(), *torch.autograd.grad(found, (x, w), upstream))

    assert all(torch.equal(a, b) for a, b in zip(run(), run(), strict=True))


@pytest.mark.skipif("cpu" not in available_backends(), reason="the extension isn't built")
def test_bits_do_not_depend_on_the_number_of_threads():
    logits = torch.randn(3, 70000, generator=torch.Generator().manual_seed(5))
    targets = torch.tensor([0, 40000, 69999])
    before = torch.get_num_threads()
    try:
        found = []
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(log_probs(logits, targets, backend="cpu"))
    finally:
        torch.set_num_threads(before)
    assert torch.equal(found[0], found[1]) and torch.equal(found[0], found[2])


def test_strided_inputs_and_upstream_gradients(backend):
    x, w, targets, upstream = make(6, 512, torch.float32)
    strided_x = torch.stack((x.detach(), x.detach()), dim=-1)[..., 0].requires_grad_()
    strided_w = w.detach().T.contiguous().T.requires_grad_()
    strided_targets = torch.stack((targets, targets), dim=1)[:, 0]
    plain = torch.autograd.grad(linear_log_probs(x, w, targets, backend=backend), (x, w), upstream)
    for gradient in (torch.stack((upstream, upstream), 1)[:, 1], upstream):
        found = linear_log_probs(strided_x, strided_w, strided_targets, backend=backend)
        grads = torch.autograd.grad(found, (strided_x, strided_w), gradient)
        for a, b in zip(grads, plain, strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)
    expanded = torch.autograd.grad(linear_log_probs(x, w, targets, backend=backend).sum(), x)  # stride 0
    ones = torch.autograd.grad(linear_log_probs(x, w, targets, backend=backend), x, torch.ones(6))
    assert torch.equal(expanded[0], ones[0])
    logits = torch.randn(512, 12, generator=torch.Generator().manual_seed(6))
    rows = logits.T[::2].requires_grad_()  # neither rows nor columns are contiguous
    found = log_probs(rows, targets, backend=backend)
    torch.testing.assert_close(found.double(), truth(rows, targets), atol=3e-6, rtol=1e-6)
    padded = torch.randn(6, 600, generator=torch.Generator().manual_seed(6))[:, :512].requires_grad_()
    (grad,) = torch.autograd.grad(log_probs(padded, targets, backend=backend), padded, upstream)
    (want,) = torch.autograd.grad(truth_in_dtype(padded, targets), padded, upstream)
    torch.testing.assert_close(grad, want, atol=1e-6, rtol=1e-5)


def test_padding_rows_of_the_weight_take_no_part(backend):
    x, w, targets, upstream = make(9, 500, torch.float32)
    padded = torch.cat((w.detach(), torch.full((12, 24), 50.0))).requires_grad_()
    found = linear_log_probs(x, padded, targets, backend=backend, vocab_size=500)
    expected = linear_log_probs(x, w, targets, backend=backend)
    torch.testing.assert_close(found, expected, atol=1e-6, rtol=1e-6)
    grads = torch.autograd.grad(found, (x, padded), upstream)
    want = torch.autograd.grad(expected, (x, w), upstream)
    torch.testing.assert_close(grads[0], want[0], atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(grads[1][:500], want[1], atol=1e-5, rtol=1e-5)
    assert not grads[1][500:].any()


def test_frozen_inputs_get_no_gradient(backend):
    x, w, targets, upstream = make(4, 64, torch.float32)
    want = torch.autograd.grad(linear_log_probs(x, w, targets, backend=backend), (x, w), upstream)
    only_x = torch.autograd.grad(linear_log_probs(x, w.detach(), targets, backend=backend), x, upstream)
    only_w = torch.autograd.grad(linear_log_probs(x.detach(), w, targets, backend=backend), w, upstream)
    assert torch.equal(only_x[0], want[0]) and torch.equal(only_w[0], want[1])
    assert not linear_log_probs(x.detach(), w.detach(), targets, backend=backend).requires_grad


def test_backward_runs_once(backend):
    x, w, targets, _ = make(4, 64, torch.float32)
    loss = linear_log_probs(x, w, targets, backend=backend).sum()
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="backward can run once"):
        loss.backward()
    with pytest.raises(RuntimeError, match="second derivatives"):
        torch.autograd.grad(linear_log_probs(x, w, targets, backend=backend).sum(), x, create_graph=True)
    logits = torch.randn(4, 9, requires_grad=True)
    total = log_probs(logits, targets % 9, backend=backend).sum()
    first = torch.autograd.grad(total, logits, retain_graph=True)  # from logits nothing is overwritten: twice is fine
    assert torch.equal(first[0], torch.autograd.grad(total, logits)[0])


def test_under_torch_compile_each_operator_is_one_op(backend):
    x, w, targets, upstream = make(5, 99, torch.float32)

    def loss(x, w):
        linear = linear_log_probs(x, w, targets, backend=backend)
        return ((linear + log_probs(x @ w.T, targets, backend=backend)) * upstream).sum()

    compiled = torch.compile(loss, backend="aot_eager", fullgraph=True)
    found = torch.autograd.grad(compiled(x, w), (x, w))
    for a, b in zip(found, torch.autograd.grad(loss(x, w), (x, w)), strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_chunks_give_what_one_buffer_gives(backend, dtype):
    x, w, targets, upstream = make(50, 300, dtype)
    want = linear_log_probs(x, w, targets, backend=backend)
    want_grads = torch.autograd.grad(want, (x, w), upstream)
    found = linear_log_probs(x, w, targets, backend=backend, max_logits_bytes=7 * 300 * x.element_size())
    grads = torch.autograd.grad(found, (x, w), upstream, retain_graph=True)
    torch.testing.assert_close(found, want, atol=1e-6, rtol=1e-6)
    tolerance = max(1e-5, 2 * torch.finfo(dtype).eps)
    for ours, theirs in zip(grads, want_grads, strict=True):
        torch.testing.assert_close(ours, theirs, atol=tolerance, rtol=tolerance)
    with pytest.raises(RuntimeError, match="backward can run once"):
        torch.autograd.grad(found, (x, w), upstream)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("max_logits_bytes", [1 << 30, 5000], ids=["one buffer", "chunks"])
def test_the_weight_gradient_goes_into_main_grad(backend, dtype, max_logits_bytes):
    """Megatron's fp32 buffer gets the sum of micro-batches, more exactly than bf16 gradients added up would."""
    x, w, targets, upstream = make(20, 1100, dtype)
    w.main_grad = torch.zeros(w.shape)
    for _ in range(3):
        linear_log_probs(x, w, targets, backend=backend, max_logits_bytes=max_logits_bytes).backward(upstream)
    assert w.grad is None
    logits = (x @ w.T).detach().double()  # in x's dtype, as ours are
    grad = (torch.nn.functional.one_hot(targets, 1100) - logits.softmax(-1)) * upstream[:, None]
    want = 3 * grad.T @ x.detach().double()
    # In fp32 the logits' own rounding, about 20 x eps, shows in the probabilities.
    tolerance = 4 * max(torch.finfo(dtype).eps, 1e-6)
    torch.testing.assert_close(w.main_grad.double(), want, atol=tolerance * want.abs().max().item(), rtol=tolerance)


@pytest.mark.parametrize("tied", [False, True], ids=["head", "tied"])
def test_a_wrapped_weight_gets_a_gradient_that_says_it_is_ready(tied):
    """Megatron's protocol: autograd hands over a gradient whose values say nothing; none where another one comes."""
    x, w, targets, upstream = make(20, 1100, torch.bfloat16)
    w.main_grad, w.grad_added_to_main_grad, w.zero_out_wgrad = torch.zeros(w.shape), False, tied
    linear_log_probs(x, w, targets).backward(upstream)
    assert w.main_grad.any() and w.grad_added_to_main_grad != tied
    assert w.grad is None if tied else (w.grad.shape, w.grad.dtype) == (w.shape, w.dtype)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
def test_in_place_backward(backend, dtype):
    g = torch.Generator().manual_seed(8)
    logits = torch.randn(7, 501, generator=g).to(dtype).requires_grad_()
    targets, upstream = torch.randint(0, 501, (7,), generator=g), torch.randn(7, generator=g)
    (want,) = torch.autograd.grad(log_probs(logits, targets, backend=backend), logits, upstream)
    buffer = logits * 1
    found = log_probs(buffer, targets, backend=backend, inplace_backward=True)
    (grad,) = torch.autograd.grad(found, buffer, upstream, retain_graph=True)
    assert torch.equal(grad, want) and grad.data_ptr() == buffer.data_ptr()
    with pytest.raises(RuntimeError, match="backward can run once"):
        torch.autograd.grad(found, buffer, upstream)
    strided = (logits * 1).T.contiguous().T
    (grad,) = torch.autograd.grad(
        log_probs(strided, targets, backend=backend, inplace_backward=True), strided, upstream
    )
    assert torch.equal(grad, want)
