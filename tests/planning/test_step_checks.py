"""A training step of each shipped configuration, executed without values: the host waits for the device only where it
is known to, no operator mixes tensors of the two, and memory is what it was.

For each pull request some rank roles, for each night all. A change that is meant to take more memory renews its number:
see `step_checks`.
"""

from typing import NamedTuple

import pytest

from editcaption_mega.planning.dry_run.recorder import HostSync

from . import step_checks
from .step_checks import CONFIGS, function_at

MARGIN = 0.03
RENEW = "python -m tests.planning.step_checks {}"
FAST = ("sft_qwen3_vl_2b.yaml", "sft_qwen3_vl_235b_a22b.yaml")  # their last stage


class Known(NamedTuple):
    """What is known to happen at a place, FILE:FUNCTION, and why it may. most: times in a step; None: as often as its
    layers or parameters want."""

    what: str
    where: str
    most: int | None
    reason: str


_SIZES = "dropless dispatch: how many rows go to each rank is what the routers chose, and the all-to-all must be told"
WAITS = (
    Known("copy to the host", "editcaption_mega/training/row_losses.py:sum_over_ranks", 1, "the step's loss, once"),
    Known("event.synchronize", "editcaption_mega/model/dispatch.py:dispatch", None, _SIZES),
    Known(
        "item",
        "editcaption_mega/training/megatron_optimizer.py:ready_gradient_norm",
        1,
        "the gradient norm, once: whether there is an update, and how far it is clipped",
    ),
)
MIXED = (
    Known(
        "editcaption.linear_log_probs.default",
        "editcaption_mega/kernels/operators.py:linear_preference",
        None,
        "the answers' bounds stay on the host, where they are checked, until the kernel copies them without a wait",
    ),
)


def roles_of(config: str, *, last_only: bool):
    """Executed once for all tests of a configuration."""
    return step_checks.execute(config, last_only=last_only).items()


def unknown(seen, known) -> list[str]:
    """What was seen at a place where it is not known, or more often than it may be."""
    most = {(place.what, place.where): place.most for place in known}
    lines = []
    for place, count in seen.items():
        name = (place.what, function_at(place.where))
        if name not in most or (most[name] is not None and count > most[name]):
            lines.append(f"{count} x {place.what} at {place.where} ({name[1]})")
    return lines


def check(config: str, executed) -> None:
    """AssertionError for a wait, a mix of devices or memory that is not known, and for an update of many kernels."""
    memory = step_checks.known_memory()[config]
    for role, record in executed:
        assert not unknown(record.host_syncs, WAITS), (
            f"{config}, {role.name}: the host waits for the device where it did not: mend it, or add it to WAITS with "
            "the reason"
        )
        assert not unknown(record.mixed, MIXED), (
            f"{config}, {role.name}: an operator takes tensors of the host and of the device: put them on one, or add "
            "it to MIXED with the reason"
        )
        kernels = {getattr(step, "name", "") for phase in record.phases for step in phase.steps}
        assert "_fused_adamw_" in kernels, f"{config}, {role.name}: the update is many kernels, not one for each group"
        assert role.name in memory, f"{config} has a new role, {role.name!r}: {RENEW.format(config)}"
        grown = record.peak.total / memory[role.name] - 1
        assert abs(grown) <= MARGIN, (
            f"{config}, {role.name}: the peak is {record.peak.total / 2**30:.2f} GiB, {100 * grown:+.1f} % of what it "
            f"was, in {record.peak.phase} at {record.peak.stack[:3]}. If that is meant: {RENEW.format(config)}"
        )


@pytest.mark.parametrize("config", FAST)
def test_the_last_stage_of_a_step_waits_and_holds_what_is_known(config):
    check(config, roles_of(config, last_only=True))


@pytest.mark.slow
@pytest.mark.parametrize("config", CONFIGS)
def test_every_role_of_a_step_waits_and_holds_what_is_known(config, all_seen):
    executed = roles_of(config, last_only=False)
    all_seen[config] = {
        (place.what, function_at(place.where))
        for _, record in executed
        for place in (*record.host_syncs, *record.mixed)
    }
    check(config, executed)


@pytest.mark.slow
def test_what_is_known_still_happens(all_seen):
    """After the others: a line for what is gone would hide its return."""
    if set(all_seen) != set(CONFIGS):
        pytest.skip("not all configurations were executed before")
    seen = set().union(*all_seen.values())
    assert [place for place in (*WAITS, *MIXED) if (place.what, place.where) not in seen] == []


@pytest.fixture(scope="module")
def all_seen() -> dict[str, set[tuple[str, str]]]:
    return {}


def test_memory_is_written_down_for_shipped_configurations_alone():
    assert sorted(step_checks.known_memory()) == sorted(CONFIGS)
    assert set(FAST) <= set(CONFIGS)


def test_every_known_place_has_a_reason():
    assert all(len(place.reason) > 10 for place in (*WAITS, *MIXED))


def test_a_wait_that_is_not_known_is_named():
    file = "editcaption_mega/training/row_losses.py"
    lines = (step_checks.ROOT / file).read_text().splitlines()
    line = next(i for i, text in enumerate(lines, 1) if "return sums.cpu()" in text)
    place = HostSync("copy to the host", f"{file}:{line}")
    assert unknown({place: 1}, WAITS) == []
    assert unknown({place: 2}, WAITS) == [f"2 x copy to the host at {file}:{line} ({file}:sum_over_ranks)"]
    assert unknown({HostSync("item", f"{file}:{line}"): 1}, WAITS)


@pytest.mark.parametrize(
    ("comment", "count"),
    [
        ("# Qwen3-VL-32B on 4 nodes of 8 GPUs (80 GiB): TP8.", 32),
        ("# DPO of Qwen3-VL-2B on one node of 8 GPUs", 8),
        ("# SFT on one GPU of 80 GiB", 1),
        ("# Qwen3-VL-8B on 16 GPUs", 16),
        ("# SFT on 32\n# nodes of 8 GPUs", 256),
    ],
)
def test_the_size_of_a_job_stands_in_its_first_comment(comment, count):
    assert step_checks.gpus_said(comment + "\nmodel:\n  folder: on 3 GPUs\n") == count
