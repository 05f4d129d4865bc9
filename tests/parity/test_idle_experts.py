"""Adapters of experts that no token chooses, where a rank may have nothing but such experts."""

import pytest
import torch

from editcaption_mega.conversion import StoreReader
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder

from . import adapter_matrix, adapter_worker, matrix

STEPS = 2
USED = 4  # of eight experts, see `adapter_matrix.keep_experts_idle`
# Data-parallel ranks have their gradients reduced while others are made, and each a part of the moments.
FAST = ["EP2", "expert TP2", "DP2"]
SLOW = ["TP2 x EP2", "TP2 x EP2 x expert TP2", "PP2 x EP2, delayed weight gradients", "EP2, experts in one piece"]
BAR = 1e-6


def name_of(layout: str) -> str:
    return f"{adapter_matrix.IDLE}/{layout}/LoRA"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folder of a layout's run, with its numbers and those of one rank."""
    measured: dict[bool, tuple] = {}

    def of(layout: str) -> tuple:
        fast = layout in FAST
        if fast not in measured:
            work = tmp_path_factory.mktemp("idle")
            names = [name_of(each) for each in ("1 rank", *(FAST if fast else SLOW))]
            measured[fast] = work / "runs", adapter_matrix.measure(work, names, STEPS, layers=3 if fast else 8)
        runs, numbers = measured[fast]
        return runs, numbers[name_of(layout)], numbers[name_of("1 rank")]

    return of


def store(runs, layout: str, step: int) -> StoreReader:
    return StoreReader(checkpoint_folder(runs / adapter_worker.slug_of(name_of(layout)), step))


EACH = pytest.mark.parametrize("layout", [*FAST, *(pytest.param(layout, marks=pytest.mark.slow) for layout in SLOW)])


@EACH
def test_losses_are_those_of_one_rank_and_of_peft(trained, layout):
    _, numbers, of_one_rank = trained(layout)
    assert matrix.largest(numbers["losses"], of_one_rank["losses"]) <= BAR
    assert numbers["loss_error"] <= matrix.LOSS_BAR


@EACH
def test_gradients_are_those_of_one_rank(trained, layout):
    """After the first update a moment is a tenth of the gradient."""
    runs = trained(layout)[0]
    ours, ones = store(runs, layout, 1), store(runs, "1 rank", 1)
    keys = [key for key in ones.tensors if key.startswith("exp_avg/")]
    assert max(ones.read(key).abs().max().item() for key in keys) > 1e-3
    assert max((ours.read(key) - ones.read(key)).abs().max().item() for key in keys) <= BAR / 10


@EACH
def test_an_expert_without_a_token_has_a_gradient_of_zero(trained, layout):
    """And the others have not."""
    of_experts = store(trained(layout)[0], layout, STEPS)
    keys = [key for key in of_experts.tensors if key.startswith("exp_avg_sq/") and ".experts." in key]
    assert {key.rpartition(".")[2] for key in keys} == {"lora_A", "lora_B"}
    largest = torch.stack([of_experts.read(key).flatten(1).amax(1) for key in keys])
    assert torch.equal(largest[:, USED:], torch.zeros_like(largest[:, USED:]))
    assert (largest[:, :USED].amax(1) > 0).all()
