"""Adapters against `peft` at every layout, asserted. One measurement serves all tests of a set of cases."""

import pytest

from . import adapter_matrix, matrix
from .worker import STEPS


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """Numbers by name; the fast cases are measured together over few steps, and all of them over all steps."""
    known: dict[int, dict[str, dict]] = {}

    def numbers(name: str, steps: int) -> dict:
        if steps not in known:
            fast = steps == adapter_matrix.FAST_STEPS
            names, layers = (adapter_matrix.FAST, adapter_matrix.FAST_LAYERS) if fast else (adapter_matrix.ALL, 8)
            known[steps] = adapter_matrix.measure(tmp_path_factory.mktemp("adapters"), names, steps, layers)
        return known[steps][name]

    return numbers


assert set(adapter_matrix.FAST) < set(adapter_matrix.ALL)
EACH = pytest.mark.parametrize(
    "name, steps",
    [pytest.param(name, adapter_matrix.FAST_STEPS, id=name) for name in adapter_matrix.FAST]
    + [pytest.param(name, STEPS, id=f"{name}, {STEPS} steps", marks=pytest.mark.slow) for name in adapter_matrix.ALL],
)


@EACH
def test_each_step_equals_peft(measured, name, steps):
    numbers = measured(name, steps)
    assert numbers["loss_change"] > 10 * matrix.LOSS_BAR, "the adapters must change the loss, or this shows nothing"
    assert numbers["loss_error"] <= matrix.LOSS_BAR


@EACH
def test_trained_adapters_have_the_logits_of_peft(measured, name, steps):
    numbers = measured(name, steps)
    assert numbers["logits"] <= matrix.LOGITS_BAR
    assert numbers["merged"] <= matrix.LOGITS_BAR, "the adapters added to their weights, in transformers"
    assert numbers["loaded"] <= matrix.LOGITS_BAR, "the PEFT folder, in peft"


@EACH
def test_a_peft_folder_is_written_again_bit_for_bit(measured, name, steps):
    assert measured(name, steps)["round_trip"]


@EACH
def test_resumed_run_is_bitwise_equal(measured, name, steps):
    assert measured(name, steps)["resume_error"] == 0.0


@EACH
def test_checkpoint_moves_to_another_layout(measured, name, steps):
    if "/1 rank/" in name:
        pytest.skip("the origin of the moved checkpoints")
    numbers = measured(name, steps)
    assert numbers["moved_error"] <= matrix.MOVED_BAR
    assert numbers["copied"], "what a layout reads of a checkpoint, it writes again bit for bit"
