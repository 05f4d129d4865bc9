"""Weight gradients that go into Megatron's fp32 buffer, against sums in fp64."""

import pytest
import torch

from editcaption_mega.kernels import grouped_weight_gradient, weight_gradient

ROWS = (5, 0, 11, 3)  # of each expert
OUT, IN = 24, 16
DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)


def weight_of(*shape, dtype):
    weight = torch.nn.Parameter(torch.zeros(shape, dtype=dtype))
    weight.main_grad, weight.grad_added_to_main_grad = torch.ones(shape), False
    return weight


def rows_of(dtype):
    g = torch.Generator().manual_seed(3)
    return [torch.randn(sum(ROWS), columns, generator=g).to(dtype) for columns in (OUT, IN)]


@DTYPES
def test_a_gradient_is_added_without_rounding(dtype):
    weight, (grad, x) = weight_of(OUT, IN, dtype=dtype), rows_of(dtype)
    returned = [weight_gradient(weight, grad, x) for _ in range(2)]
    torch.testing.assert_close(weight.main_grad.double(), 1 + 2 * grad.double().T @ x.double(), atol=1e-5, rtol=1e-6)
    assert weight.grad_added_to_main_grad and {(r.shape, r.dtype) for r in returned} == {(weight.shape, dtype)}


@DTYPES
def test_each_expert_gets_the_gradient_of_its_rows(dtype):
    weight, (grad, x) = weight_of(len(ROWS), 2, OUT // 2, IN, dtype=dtype), rows_of(dtype)
    ends = torch.tensor(ROWS).cumsum(0).to(torch.int32)
    returned = grouped_weight_gradient(weight, grad, x, ends, ROWS)
    parts = zip(grad.double().split(ROWS), x.double().split(ROWS), strict=True)
    expected = 1 + torch.stack([g.T @ rows for g, rows in parts]).view_as(weight)
    torch.testing.assert_close(weight.main_grad.double(), expected, atol=1e-5, rtol=1e-6)
    assert weight.grad_added_to_main_grad and returned.shape == weight.shape


@pytest.mark.parametrize("reason", ["apart", "no buffer", "counts unknown"])
def test_elsewhere_gradients_come_back(reason):
    weight, (grad, x) = weight_of(len(ROWS), OUT, IN, dtype=torch.float32), rows_of(torch.float32)
    if reason == "no buffer":
        del weight.main_grad
    ends, counts = torch.tensor(ROWS).cumsum(0).to(torch.int32), None if reason == "counts unknown" else ROWS
    by_experts = grouped_weight_gradient(weight, grad, x, ends, counts, fused=reason != "apart")
    expected = torch.stack([g.T @ rows for g, rows in zip(grad.split(ROWS), x.split(ROWS), strict=True)])
    torch.testing.assert_close(by_experts, expected)
    assert not weight.grad_added_to_main_grad
    if reason != "counts unknown":
        whole = torch.nn.Parameter(torch.zeros(OUT, IN))
        torch.testing.assert_close(weight_gradient(whole, grad, x), grad.T @ x)
