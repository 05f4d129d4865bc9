"""Our linears on one rank; on several they are held by the parity matrix, in pieces and in one."""

from types import SimpleNamespace

import pytest
import torch
import torch.nn.functional as F

from editcaption_mega import platform
from editcaption_mega.model.parallel.grouped_experts import ExpertRows, GroupedExperts
from editcaption_mega.model.parallel.linears import ColumnLinear, LanguageConfig, Linear, RowLinear

ALONE = SimpleNamespace(size=lambda: 1, rank=lambda: 0)


@pytest.fixture(autouse=True)
def world():
    platform.initialize(platform.Layout(), seed=1)
    yield
    platform.destroy()


def config_of(*, fused):
    return LanguageConfig(
        num_layers=1, hidden_size=16, num_attention_heads=2, add_bias_linear=False, gated_linear_unit=True,
        use_cpu_initialization=True, perform_initialization=False, fused_weight_gradients=fused, num_moe_experts=3,
        moe_ffn_hidden_size=8, activation_func=F.silu,
    )  # fmt: skip


def megatron_linear(kind, config):
    input_is_parallel = {"input_is_parallel": True} if kind is RowLinear else {}
    options = dict(config=config, init_method=None, bias=False, skip_bias_add=False, **input_is_parallel)
    return kind(16, 24, **options)


@pytest.mark.parametrize("fused", [True, False], ids=["in the product", "apart"])
@pytest.mark.parametrize("kind", [ColumnLinear, RowLinear, Linear])
def test_gradients_are_those_of_a_plain_linear(kind, fused):
    layer = Linear(16, 24) if kind is Linear else megatron_linear(kind, config_of(fused=fused))
    layer.fused = fused
    with torch.no_grad():
        layer.weight.copy_(torch.randn(24, 16))
    layer.weight.main_grad, layer.weight.grad_added_to_main_grad = torch.zeros(24, 16), False
    x = torch.randn(6, 1, 16, requires_grad=True)
    out = layer(x) if kind is Linear else layer(x)[0]
    upstream = torch.randn_like(out)
    out.backward(upstream)
    y, weight = x.detach().requires_grad_(), layer.weight.detach().requires_grad_()
    bias = layer.bias.detach().requires_grad_() if kind is Linear else None
    expected = F.linear(y, weight, bias)
    expected.backward(upstream)
    assert layer.weight.grad_added_to_main_grad == fused
    torch.testing.assert_close(out, expected)
    torch.testing.assert_close(x.grad, y.grad)
    torch.testing.assert_close(layer.weight.main_grad if fused else layer.weight.grad, weight.grad)
    if bias is not None:
        torch.testing.assert_close(layer.bias.grad, bias.grad)


@pytest.mark.parametrize("kind", [ColumnLinear, RowLinear, Linear])
def test_a_frozen_weight_gets_no_gradient_and_holds_no_input(kind):
    layer = Linear(16, 24) if kind is Linear else megatron_linear(kind, config_of(fused=True))
    layer.weight.requires_grad_(False)
    x, saved = torch.randn(6, 1, 16, requires_grad=True), []
    with torch.autograd.graph.saved_tensors_hooks(lambda t: saved.append(t) or t, lambda t: t):
        out = layer(x)
    (out if kind is Linear else out[0]).sum().backward()
    assert x.grad is not None and layer.weight.grad is None
    assert all(tensor.shape == layer.weight.shape for tensor in saved)


def test_experts_take_a_gradient_that_is_one_number_for_all():
    """As `sum` hands it back, expanded: PyTorch's grouped product refuses such strides."""
    experts = GroupedExperts(3, config_of(fused=True), pg_collection=SimpleNamespace(expt_tp=ALONE, ep=ALONE))
    with torch.no_grad():
        for weight in experts.parameters():
            weight.copy_(torch.randn_like(weight))
    x = torch.randn(7, 16, requires_grad=True)
    out, _ = experts(x, ExpertRows.of(torch.tensor([4, 0, 3])), torch.rand(7))
    out.sum().backward()
    assert x.grad.abs().sum() > 0 and experts.down.grad[0].abs().sum() > 0 and not experts.down.grad[1].any()
