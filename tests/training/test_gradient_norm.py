"""The gradient norm before the update, and the update that is clipped to it: Megatron's numbers, with one wait."""

import math

import pytest
import torch

from editcaption_mega import platform
from editcaption_mega.settings import OptimizerSettings
from editcaption_mega.training.megatron_optimizer import clipped_update, finish_gathers, ready_gradient_norm
from tests.helpers import tiny
from tests.helpers.ranks import on_ranks
from tests.helpers.train_state import train_state


@pytest.fixture(autouse=True)
def alone_again():
    yield
    platform.destroy()


def updated(folder, own, settings, *, expert=1, precision="bf16"):
    """The norm and the weights after one update with given gradients, by our way or by Megatron's."""
    state, shards = train_state(folder, settings, expert=expert, precision=precision)
    generator = torch.Generator().manual_seed(1 + platform.rank())
    for shard in shards:
        gradient = shard.parameter.main_grad
        gradient.detach().copy_(torch.randn(gradient.shape, generator=generator))
    for chunk in state.chunks:
        chunk.start_grad_sync()
        chunk.finish_grad_sync()
    if own:
        norm = ready_gradient_norm(state.optimizer)
        clipped_update(state.optimizer, norm)
    else:
        success, norm, _ = state.optimizer.step()
        assert success
    if state.chunks[0].ddp_config.overlap_param_gather:
        for chunk in state.chunks:
            chunk.start_param_sync()
    finish_gathers(state.optimizer)
    return norm, [shard.parameter.detach().clone() for shard in shards]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("moe")
    tiny.hf_model(experts=True, layers=2).save_pretrained(path)
    return path


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("clip_grad", [1.0, 1e6, 0.0])
def test_norm_and_update_are_those_of_megatron_bit_for_bit(folder, clip_grad, precision):
    settings = OptimizerSettings(learning_rate=1e-2, clip_grad=clip_grad)
    norm, weights = updated(folder, True, settings, precision=precision)
    platform.destroy()
    theirs, expected = updated(folder, False, settings, precision=precision)
    assert norm == theirs and math.isfinite(norm) and norm > 10
    assert all(torch.equal(mine, other) for mine, other in zip(weights, expected, strict=True))


def on_a_rank(rank, folder, own):
    norm, weights = updated(folder, own, OptimizerSettings(learning_rate=1e-2), expert=2)
    return norm, torch.cat([weight.float().flatten() for weight in weights]).numpy()


def test_over_ranks_that_divide_the_experts(folder, tmp_path):
    """Experts count on each rank, what the two hold alike once."""
    ours, theirs = (on_ranks(on_a_rank, tmp_path, folder, own) for own in (True, False))
    assert len({norm for norm, _ in (*ours, *theirs)}) == 1
    for (_, weights), (_, expected) in zip(ours, theirs, strict=True):
        assert weights.size and (weights == expected).all()


class Waits(torch.overrides.TorchFunctionMode):
    """Counts the numbers that the host asks tensors for, and tensors that it makes of such numbers."""

    count = 0

    def __torch_function__(self, function, types, arguments=(), options=None):
        name = getattr(function, "__name__", "")
        if name in ("item", "tolist", "__float__", "__bool__", "cpu"):
            self.count += 1
        if name == "tensor":
            self.count += sum(isinstance(value, torch.Tensor) for value in _flat(arguments[0]))
        return function(*arguments, **(options or {}))


def _flat(part):
    return [inner for value in part for inner in _flat(value)] if isinstance(part, list) else [part]


def test_the_host_asks_the_device_for_one_number(folder):
    state, shards = train_state(folder, OptimizerSettings())
    for shard in shards:
        shard.parameter.main_grad.detach().fill_(1.0)
    state.optimizer.prepare_grads()
    with Waits() as theirs:
        state.optimizer.get_grad_norm()
    with Waits() as ours:
        ready_gradient_norm(state.optimizer)
    assert theirs.count >= len(shards), "the count sees Megatron's way, which asks for each parameter's norm"
    assert ours.count == 1
