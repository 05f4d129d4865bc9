"""SwiGLU, rotary embedding and RMSNorm against fp64 autograd, for every backend that this machine has."""

import pytest
import torch
from torch import Tensor

from editcaption_mega.kernels import rms_norm, rotate, swiglu

DTYPES = [torch.float32, torch.bfloat16, torch.float16]


def draw(*shape: int, dtype: torch.dtype = torch.float32, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed)).to(dtype).requires_grad_()


def close(found: Tensor, expected: Tensor, roundings: float = 0.51) -> None:
    """Within so many steps of the dtype of what fp64 gives; in fp32 within 2e-6."""
    eps = torch.finfo(found.dtype).eps
    tolerance = dict(atol=2e-6, rtol=2e-6) if found.dtype == torch.float32 else dict(atol=2e-5, rtol=roundings * eps)
    torch.testing.assert_close(found.double(), expected, **tolerance)


def plain_swiglu(gate_up: Tensor, weights: Tensor | None) -> Tensor:
    gate, up = gate_up.chunk(2, -1)
    out = gate / (1 + (-gate).exp()) * up
    return out if weights is None else out * weights[..., None]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(
    ("shape", "weighted"), [((5, 7), True), ((3, 2, 264), False), ((4, 4112), True), ((0, 16), True)]
)
def test_swiglu_and_its_gradients(backend, dtype, shape, weighted):
    gate_up = draw(*shape[:-1], 2 * shape[-1], dtype=dtype)
    weights = draw(*shape[:-1], seed=1) if weighted else None
    inputs = (gate_up,) if weights is None else (gate_up, weights)
    found = swiglu(*inputs, backend=backend)
    upstream = draw(*shape, dtype=dtype, seed=2).detach()
    gradients = torch.autograd.grad(found, inputs, upstream)
    exact = [tensor.detach().double().requires_grad_() for tensor in inputs]
    expected = plain_swiglu(exact[0], exact[1] if weighted else None)
    assert found.dtype == dtype and found.shape == shape
    close(found, expected)
    wanted = torch.autograd.grad(expected, exact, upstream.double())
    close(gradients[0], wanted[0])
    if weighted:
        assert gradients[1].dtype == torch.float32
        torch.testing.assert_close(gradients[1].double(), wanted[1], atol=2e-4, rtol=1e-5)


def test_swiglu_far_from_zero(backend):
    """Gates whose exponential is beyond fp32: 0 and the gate itself, with finite gradients."""
    gate_up = torch.tensor([[-200.0, 200.0, 3.0, 3.0]], requires_grad=True)
    found = swiglu(gate_up, backend=backend)
    assert found.tolist() == [[0.0, 600.0]]
    (gradient,) = torch.autograd.grad(found.sum(), gate_up)
    assert gradient.tolist() == [[0.0, 3.0, 0.0, 200.0]]


def plain_rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    first, second = x.chunk(2, -1)
    return torch.cat((first * cos[:, None] - second * sin[:, None], second * cos[:, None] + first * sin[:, None]), -1)


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize(("heads", "kv_heads", "width"), [(4, 2, 128), (3, 3, 72), (2, 1, 10), (1, 0, 16)])
def test_rotate_and_its_gradients(backend, dtype, heads, kv_heads, width):
    """Queries and keys that are parts of one tensor, as projections are."""
    tokens = 9
    qkv = draw(tokens, heads + 2 * kv_heads, width, dtype=dtype)
    angles = torch.rand(tokens, width // 2, generator=torch.Generator().manual_seed(1)) * 60
    cos, sin = angles.cos(), angles.sin()
    query, key, _ = qkv.split([heads, kv_heads, kv_heads], 1)
    found = rotate(query, key, cos, sin, backend=backend)
    upstream = [draw(tokens, n, width, dtype=dtype, seed=n).detach() for n in (heads, kv_heads)]
    (gradient,) = torch.autograd.grad(found, qkv, upstream)
    exact = qkv.detach().double().requires_grad_()
    query, key, _ = exact.split([heads, kv_heads, kv_heads], 1)
    expected = [plain_rotate(part, cos.double(), sin.double()) for part in (query, key)]
    (wanted,) = torch.autograd.grad(expected, exact, [tensor.double() for tensor in upstream])
    for ours, theirs in zip(found, expected, strict=True):
        assert ours.dtype == dtype and ours.is_contiguous()
        close(ours, theirs)
    close(gradient, wanted)


def test_a_rotation_that_is_taken_back_is_none(backend):
    """The gradient is the rotation by the opposite angle."""
    x = draw(6, 2, 16)
    angles = torch.rand(6, 8)
    query, key = rotate(x, x[:, :1], angles.cos(), angles.sin(), backend=backend)
    (gradient,) = torch.autograd.grad(query, x, query.detach())
    torch.testing.assert_close(gradient, x.detach(), atol=1e-6, rtol=1e-6)


def plain_norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return weight * x / (x.pow(2).mean(-1, keepdim=True) + epsilon).sqrt()


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("shape", [(3, 128), (20, 1, 7), (2, 2, 1024), (3, 1025), (2, 5120), (0, 64)])
def test_rms_norm_and_its_gradients(backend, dtype, shape):
    x, weight = draw(*shape, dtype=dtype), draw(shape[-1], dtype=dtype, seed=1)
    found = rms_norm(x, weight, 1e-6, backend=backend)
    upstream = draw(*shape, dtype=dtype, seed=2).detach()
    gradients = torch.autograd.grad(found, (x, weight), upstream)
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    expected = plain_norm(*exact, 1e-6)
    assert found.dtype == dtype and found.shape == shape
    close(found, expected, roundings=1.1)  # before the weight and behind it
    wanted = torch.autograd.grad(expected, exact, upstream.double())
    close(gradients[0], wanted[0], roundings=0.6)
    torch.testing.assert_close(gradients[1].double(), wanted[1], atol=1e-4, rtol=0.6 * torch.finfo(dtype).eps + 1e-5)


def test_rms_norm_of_heads_that_are_parts_of_a_projection(backend):
    """Rows that lie apart, evenly or not, and rows of many blocks."""
    qkv = draw(6, 1, 2, 4, 32)
    weight = draw(32, seed=1)
    for part in (qkv[..., 2, :], qkv[..., :3, :], qkv[:, :, :, :2, ::2]):
        own = weight[: part.shape[-1]]
        found = rms_norm(part, own, 1e-6, backend=backend)
        close(found, plain_norm(part.double(), own.double(), 1e-6))


def test_a_weight_that_does_not_lie_together_is_read_as_one_that_does(backend):
    """What it is copied to outlives the kernel that reads it: freed memory would have the allocator's numbers in it."""
    x, weight = draw(3, 7), draw(14, seed=1)[::2].detach().requires_grad_()
    assert not weight.is_contiguous()
    found = rms_norm(x, weight, 1e-6, backend=backend)
    gradients = torch.autograd.grad(found.sum(), (x, weight))
    exact = [tensor.detach().double().requires_grad_() for tensor in (x, weight)]
    expected = plain_norm(*exact, 1e-6)
    close(found, expected)
    for ours, theirs in zip(gradients, torch.autograd.grad(expected.sum(), exact), strict=True):
        torch.testing.assert_close(ours.double(), theirs, atol=1e-5, rtol=1e-5)


def test_rows_beyond_what_a_block_holds_are_normalized_by_pytorch(backend):
    x, weight = draw(2, 8200), draw(8200, seed=1)
    found = rms_norm(x, weight, 1e-6, backend=backend)
    close(found, plain_norm(x.double(), weight.double(), 1e-6))
    assert torch.autograd.grad(found.sum(), (x, weight))[1].shape == (8200,)


def test_the_weights_gradient_is_the_same_bits_in_every_run(backend):
    x, weight = draw(40, 64, dtype=torch.bfloat16), draw(64, dtype=torch.bfloat16, seed=1)

    def gradient() -> Tensor:
        return torch.autograd.grad(rms_norm(x, weight, 1e-6, backend=backend).float().sum(), weight)[0]

    assert torch.equal(gradient(), gradient())


def test_gradients_in_fp64():
    gate_up, weights = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 8), (3,)))
    torch.autograd.gradcheck(swiglu, (gate_up, weights))
    torch.autograd.gradcheck(swiglu, (gate_up,))
    x, weight = (torch.randn(*shape, dtype=torch.float64, requires_grad=True) for shape in ((3, 2, 6), (6,)))
    torch.autograd.gradcheck(lambda x, weight: rms_norm(x, weight, 1e-6), (x, weight))
    angles = torch.randn(3, 3, dtype=torch.float64)
    torch.autograd.gradcheck(lambda x: rotate(x, x * 2, angles.cos(), angles.sin()), x)
    torch.autograd.gradgradcheck(lambda x: rotate(x.sin(), x, angles.cos(), angles.sin())[0], x)


HALF = torch.bfloat16


@pytest.mark.parametrize(
    ("call", "words"),
    [
        (lambda: swiglu(torch.ones(2, 3)), "must be .., 2 F"),
        (lambda: swiglu(torch.ones(3, 0), torch.ones(3)), r"found \[3, 0\] and \[3\]"),
        (lambda: swiglu(torch.tensor(1.0)), r"found \[\] and None"),
        (lambda: swiglu(torch.ones(2, 4, dtype=torch.int32)), "float16 or float64, found int32"),
        (lambda: rotate(*[torch.ones(2, 3, 5)] * 2, *[torch.ones(2, 2)] * 2), r"with an even d.* \[\[2, 3, 5\]"),
        (
            lambda: rotate(torch.ones(2, 3, 4), torch.ones(2, 3, 4, dtype=HALF), *[torch.ones(2, 2)] * 2),
            "one dtype.* found float32, bfloat16",
        ),
        (
            lambda: rotate(*[torch.ones(2, 3, 4)] * 2, *[torch.ones(2, 2, dtype=torch.float64)] * 2),
            "`cos` and `sin` must be float32, found torch.float64",
        ),
        (lambda: rms_norm(torch.ones(2, 4), torch.ones(4, dtype=HALF), 1e-6), "one dtype.* found float32, bfloat16"),
        (lambda: rms_norm(torch.tensor(1.0), torch.tensor(1.0), 1e-6), r"`weight` must be \[H\]"),
        (lambda: swiglu(torch.ones(2, 4), torch.ones(3)), r"found \[2, 4\] and \[3\]"),
        (lambda: rotate(torch.ones(2, 3, 4), torch.ones(2, 1, 4), torch.ones(2, 4), torch.ones(2, 4)), r"\[T, d / 2\]"),
        (lambda: rms_norm(torch.ones(2, 3), torch.ones(4), 1e-6), r"`weight` must be \[3\]"),
    ],
)
def test_what_cannot_be_is_refused(call, words):
    with pytest.raises(ValueError, match=words.replace("..,", r"\[..,")):
        call()


def test_operators_pass_pytorchs_own_checks():
    """Schema and fake form agree; gradients have tests of their own."""
    operators, angles = torch.ops.editcaption, torch.rand(3, 4)
    x, weight, gate_up, weights = draw(3, 2, 8), draw(8), draw(5, 8), draw(5)
    cheap = ("test_schema", "test_faketensor")
    for operator, arguments in (
        (operators.swiglu, (gate_up, weights, "torch")),
        (operators.swiglu_gradient, (gate_up.detach(), weights.detach(), torch.ones(5, 4), "torch")),
        (operators.rotate, (x, x, angles.cos(), angles.sin(), False, "torch")),
        (operators.rms_norm, (x, weight, 1e-6, "torch")),
    ):
        torch.library.opcheck(operator.default, arguments, test_utils=cheap)
