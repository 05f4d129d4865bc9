"""Numbers of the parity matrix, asserted. One measurement of all layouts serves every test here."""

import parity_matrix
import pytest

LAYOUTS = [layout for layouts in parity_matrix.LAUNCHES.values() for layout in layouts]


@pytest.fixture(scope="session")
def results(tmp_path_factory):
    return parity_matrix.measure(tmp_path_factory.mktemp("parity"))


def cases(kind: str) -> list[str]:
    """Layouts that this kind of model can have."""
    if kind == "dense":
        return [layout for layout in LAYOUTS if "EP" not in layout and "expert" not in layout]
    return [layout for layout in LAYOUTS if "no SP" not in layout]


EACH = pytest.mark.parametrize("name", [f"{kind}/{layout}" for kind in ("dense", "moe") for layout in cases(kind)])


@EACH
def test_logits_equal_transformers(results, name):
    assert results[name]["logits"] <= parity_matrix.LOGITS_BAR


@EACH
def test_twenty_steps_equal_a_plain_loop(results, name):
    assert results[name]["loss_error"] <= parity_matrix.LOSS_BAR


@EACH
def test_resumed_run_is_bitwise_equal(results, name):
    assert results[name]["resume_error"] == 0.0


@EACH
def test_checkpoint_moves_to_another_layout(results, name):
    if name.endswith("/1 rank"):
        pytest.skip("the origin of the moved checkpoints")
    assert results[name]["moved_error"] <= parity_matrix.MOVED_BAR


@EACH
def test_round_trip_is_bitwise(results, name):
    assert results[name]["round_trip"]


@pytest.mark.parametrize("layout", cases("moe"))
def test_router_loss_agrees_with_one_rank(results, layout):
    numbers = results[f"moe/{layout}"]
    assert numbers["aux_effect"] > 1e-4, "the router loss must change the run, or this test shows nothing"
    assert numbers["aux_error"] <= parity_matrix.LOSS_BAR / 10


def test_training_moves_the_loss(results):
    losses = results["moe/1 rank"]["losses"]
    assert losses[-1] < losses[0] - 0.1
