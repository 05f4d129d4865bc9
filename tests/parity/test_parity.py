"""Numbers of the parity matrix, asserted. One measurement serves all tests of a set of layouts."""

import pytest

from . import matrix


@pytest.fixture(scope="session")
def measured(tmp_path_factory):
    """Numbers by name; the fast cases are measured together, and all when another one is asked for."""
    known: dict[str, dict] = {}

    def numbers(name: str) -> dict:
        if name not in known:
            names = matrix.FAST if name in matrix.FAST else matrix.ALL
            known.update(matrix.measure(tmp_path_factory.mktemp("parity"), names))
        return known[name]

    return numbers


def each(names: list[str]):
    """One test for each name; those beyond the fast ones are marked slow."""
    assert set(matrix.FAST) < set(matrix.ALL)
    marks = [[] if name in matrix.FAST else [pytest.mark.slow] for name in names]
    return pytest.mark.parametrize(
        "name", [pytest.param(name, marks=mark) for name, mark in zip(names, marks, strict=True)]
    )


@pytest.fixture
def results(measured, name):
    return {name: measured(name)}


EACH = each(matrix.ALL)


@EACH
def test_logits_equal_transformers(results, name):
    assert results[name]["logits"] <= matrix.LOGITS_BAR


@EACH
def test_twenty_steps_equal_a_plain_loop(results, name):
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


def test_training_moves_the_loss(measured):
    losses = measured("moe/1 rank")["losses"]
    assert losses[-1] < losses[0] - 0.1
