"""Numbers of the parity matrix, asserted. One measurement serves all tests of a set of layouts."""

import pytest

from . import matrix
from .worker import STEPS


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """Numbers by name; the fast cases are measured together over few steps, and all of them over all steps."""
    known: dict[int, dict[str, dict]] = {}

    def numbers(name: str, steps: int) -> dict:
        if steps not in known:
            names = matrix.FAST if steps == matrix.FAST_STEPS else matrix.ALL
            known[steps] = matrix.measure(tmp_path_factory.mktemp("parity"), names, steps)
        return known[steps][name]

    return numbers


def each(names: list[str]):
    """One test for each name over all steps, marked slow, and for the fast ones another over few."""
    assert set(matrix.FAST) < set(matrix.ALL)
    few = [pytest.param(name, matrix.FAST_STEPS, id=name) for name in names if name in matrix.FAST]
    whole = [pytest.param(name, STEPS, id=f"{name}, {STEPS} steps", marks=pytest.mark.slow) for name in names]
    return pytest.mark.parametrize("name, steps", few + whole)


@pytest.fixture
def results(measured, name, steps):
    return {name: measured(name, steps)}


EACH = each(matrix.ALL)


@EACH
def test_logits_equal_transformers(results, name):
    assert results[name]["logits"] <= matrix.LOGITS_BAR


@EACH
def test_each_step_equals_a_plain_loop(results, name):
    assert results[name]["loss_error"] <= matrix.LOSS_BAR


@EACH
def test_resumed_run_is_bitwise_equal(results, name):
    assert results[name]["resume_error"] == 0.0


@EACH
def test_checkpoint_moves_to_another_layout(results, name):
    if name.endswith("/1 rank"):
        pytest.skip("the origin of the moved checkpoints")
    assert results[name]["moved_error"] <= matrix.MOVED_BAR
    assert results[name]["copied"], "what a layout reads of a checkpoint, it writes again bit for bit"


@EACH
def test_round_trip_is_bitwise(results, name):
    assert results[name]["round_trip"]


@each([name for name in matrix.ALL if name.startswith("moe/")])
def test_router_loss_agrees_with_one_rank(results, name):
    numbers = results[name]
    assert numbers["aux_effect"] > 1e-4, "the router loss must change the run, or this test shows nothing"
    assert numbers["aux_error"] <= matrix.LOSS_BAR / 10


@pytest.mark.parametrize("steps", [matrix.FAST_STEPS, pytest.param(STEPS, marks=pytest.mark.slow)])
def test_training_moves_the_loss(measured, steps):
    losses = measured("moe/1 rank", steps)["losses"]
    assert losses[-1] < losses[0] - 0.1
