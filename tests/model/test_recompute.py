"""What is recomputed is not held between the passes, and gradients are the same (the parity matrix measures those)."""

import pytest
import torch
from torch.multiprocessing.reductions import StorageWeakRef

from editcaption_mega import platform
from editcaption_mega.conversion import load_weights
from editcaption_mega.model import Architecture, build_model, unwrap
from editcaption_mega.model.parallel.grouped_experts import GroupedExperts
from editcaption_mega.model.recompute import forget_norm, recomputed, recomputed_norm
from editcaption_mega.settings import ModelSettings, ParallelSettings
from tests.helpers import tiny


def test_an_output_that_is_recomputed_is_not_held_and_gradients_are_exact():
    generator = torch.Generator().manual_seed(0)
    x, weight = (torch.randn(6, 6, generator=generator, dtype=torch.float64).requires_grad_() for _ in range(2))
    ((x.exp().sin() @ weight).view(4, 9) ** 2).sum().backward()
    expected, x.grad = (x.grad, weight.grad), None
    weight.grad = None

    calls = []

    def function(x):
        calls.append(torch.is_grad_enabled())
        return x.exp().sin()

    output, forgotten = recomputed(function, x)
    with forgotten:
        used = output @ weight
    result = (used.view(4, 9) ** 2).sum()
    storage = StorageWeakRef(output.untyped_storage())
    del output
    assert storage.expired(), "neither the product nor its hooks hold what is computed again"
    result.backward()
    assert torch.equal(x.grad, expected[0]) and torch.equal(weight.grad, expected[1])
    assert len(calls) == 3, "in the forward pass, for the product's gradient, and for its own"


def test_a_norm_whose_class_builds_another_is_recomputed_too():
    """As Megatron's TENorm does, which is a class that makes objects of Transformer Engine's."""

    class Factory:
        def __new__(cls, size):
            return torch.nn.RMSNorm(size)

    norm, product = recomputed_norm(Factory)(6), torch.nn.Linear(6, 3)
    forget_norm(norm, used_by=product)
    assert set(norm.state_dict()) == {"weight"}
    x = torch.randn(4, 6, requires_grad=True)
    output = norm(x)
    result = product(output)
    storage = StorageWeakRef(output.untyped_storage())
    del output
    assert storage.expired()
    result.sum().backward()
    expected = torch.autograd.grad(product(torch.nn.RMSNorm(6)(x)).sum(), x)[0]
    assert torch.equal(x.grad, expected)
    with torch.no_grad():
        assert torch.equal(product(norm(x)), result)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("moe")
    tiny.hf_model(experts=True, layers=2).save_pretrained(folder)
    platform.initialize(platform.Layout(), seed=1)
    yield folder
    platform.destroy()


def outputs_held(folder, **recompute) -> tuple[dict[str, int], torch.Tensor]:
    """How many outputs of norms, experts' activations and vision blocks are still there when the forward pass is done,
    and the gradient of the first weight."""
    settings = ModelSettings(folder=str(folder), **recompute)
    settings.validate()
    architecture = Architecture.from_folder(folder)
    (chunk,) = build_model(architecture, settings, ParallelSettings(), "fp32")
    load_weights([chunk], architecture, folder)
    storages: dict[str, list] = {"norm": [], "activation": [], "vision": []}
    model = unwrap(chunk)

    def watch(name, out):
        storages[name].append(StorageWeakRef(out.untyped_storage()))

    def watched(gate_up, probs):
        out = GroupedExperts.activation(gate_up, probs)
        watch("activation", out)
        return out

    for layer in model.language.decoder.layers:
        for norm in (layer.input_layernorm, layer.pre_mlp_layernorm):
            norm.register_forward_hook(lambda _, __, out: watch("norm", out))
        layer.mlp.experts.activation = watched
    for block in model.vision.blocks:
        block.mlp.linear_fc1.register_forward_hook(lambda _, __, out: watch("vision", out))
    chunk.train()
    log_probs = chunk(tiny.row(tiny.samples(2), 160))
    held = {name: sum(not storage.expired() for storage in of) for name, of in storages.items()}
    assert all(storages.values())
    log_probs.sum().backward()
    return held, model.vision.patch_embed.weight.grad


@pytest.mark.parametrize(
    "recompute, held",
    [
        (dict(), dict(norm=4, activation=2, vision=4)),
        (dict(recompute="selective", recompute_modules=["layernorm"]), dict(norm=0, activation=2, vision=4)),
        (dict(recompute="selective", recompute_modules=["moe_act"]), dict(norm=4, activation=0, vision=4)),
        (dict(recompute="selective", recompute_modules=["layernorm", "moe"]), dict(norm=0, activation=0, vision=4)),
        (dict(recompute_vision=True), dict(norm=4, activation=2, vision=0)),
        (dict(recompute="full"), dict(norm=0, activation=0, vision=0)),
        (dict(recompute="full", recompute_vision=False), dict(norm=0, activation=0, vision=4)),
        (
            dict(recompute="full", recompute_method="block", recompute_num_layers=1),
            dict(norm=2, activation=1, vision=0),
        ),
    ],
)
def test_what_is_recomputed_is_not_held(folder, recompute, held):
    _, expected = outputs_held(folder)
    found, gradient = outputs_held(folder, **recompute)
    assert found == held
    assert (gradient - expected).abs().max() <= 1e-6 * expected.abs().max() and expected.any()


@pytest.mark.parametrize(
    "recompute",
    [
        dict(),
        dict(recompute="selective", recompute_modules=["layernorm", "moe_act"]),
        dict(recompute="full"),
    ],
)
def test_gradients_are_added_to_the_buffers_of_weights_whatever_is_recomputed(folder, recompute):
    settings = ModelSettings(folder=str(folder), **recompute)
    architecture = Architecture.from_folder(folder)
    (chunk,) = build_model(architecture, settings, ParallelSettings(), "fp32")
    load_weights([chunk], architecture, folder)
    decoder = unwrap(chunk).language.decoder
    weights = {name: weight for name, weight in decoder.named_parameters() if "norm" not in name and weight.ndim > 1}
    weights = {name: weight for name, weight in weights.items() if "router" not in name}
    for weight in weights.values():
        weight.main_grad = torch.zeros_like(weight)
    chunk.train()
    chunk(tiny.row(tiny.samples(2), 160)).sum().backward()
    assert len(weights) == 2 * 4  # qkv, projection, and two of experts
    for name, weight in weights.items():
        assert weight.main_grad.any() and weight.grad is None, name


@pytest.mark.parametrize(
    "recompute", [dict(), dict(recompute="full"), dict(recompute="selective", recompute_modules=["moe"])]
)
def test_a_router_that_trains_alone_gets_its_gradient(folder, recompute):
    """Nothing before it requires one, and Megatron's recomputation looks at its input."""
    settings = ModelSettings(folder=str(folder), **recompute)
    architecture = Architecture.from_folder(folder)
    (chunk,) = build_model(architecture, settings, ParallelSettings(), "fp32")
    load_weights([chunk], architecture, folder)
    chunk.requires_grad_(False)
    routers = [layer.mlp.router.weight.requires_grad_() for layer in unwrap(chunk).language.decoder.layers]
    chunk.train()(tiny.row(tiny.samples(2), 160)).sum().backward()
    assert [weight.grad is not None and bool(weight.grad.any()) for weight in routers] == [True] * len(routers)
