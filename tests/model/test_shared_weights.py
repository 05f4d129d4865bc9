"""A model that takes the weights of another one: the same memory, and none of its own but for its adapters."""

import pytest

from editcaption_mega import platform
from editcaption_mega.conversion import AdapterChoice
from editcaption_mega.model import ADAPTERS, Architecture, build_model, unwrap, weights_to_share
from editcaption_mega.settings import AdapterSettings, ModelSettings, ParallelSettings
from tests.helpers import small_job


@pytest.fixture(scope="module", params=["fp32", "bf16"])
def build(request, tmp_path_factory):
    folder = small_job.write_folder(tmp_path_factory.mktemp("shared_weights"))
    architecture = Architecture.from_folder(folder)
    platform.initialize(platform.Layout(), seed=1)

    def model(rank, weights=None):
        adapters = AdapterSettings(rank=rank, modules=["self_attn.*", "mlp.experts.*", "visual.*"])
        choice = AdapterChoice.of(architecture, adapters, frozen=(), precision=request.param)
        chunks = build_model(
            architecture, ModelSettings(folder="-"), ParallelSettings(), request.param, choice.plan(1), weights
        )
        return unwrap(chunks[0])

    yield model
    platform.destroy()


def test_the_memory_is_the_same(build):
    first = build(8)
    weights = weights_to_share(first)
    second = build(16, [weights])
    own = dict(second.named_parameters())
    assert {name for name in own if ADAPTERS not in name} == weights.keys()
    for name, weight in weights.items():
        assert own[name] is weight and not weight.is_meta
    for name, parameter in own.items():
        if ADAPTERS in name:
            assert not parameter.is_meta and 16 in parameter.shape and hasattr(parameter, "tensor_model_parallel"), name
    assert not any(buffer.is_meta for buffer in second.buffers())


def test_those_of_another_model_are_refused(build):
    weights = weights_to_share(build(8))
    name = next(iter(weights))
    with pytest.raises(ValueError, match="same architecture and layout"):
        build(8, [{other: weight for other, weight in weights.items() if other != name}])
