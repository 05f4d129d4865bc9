"""What a person reads of a plan adds up, and says what the JSON says."""

import json
import re

import pytest

from editcaption_mega.planning.dry_run.recorder import Phase
from editcaption_mega.planning.plan_text import lines_of, plan_summary
from editcaption_mega.planning.timing.cost import Operation

from .given_plan import GIB, given_plan, given_record


def memory_line(plan, role: str) -> tuple[float, list[float]]:
    """What a role needs, and the parts behind it, in GiB."""
    (line,) = [line for line in lines_of(plan) if line.startswith(f"  {role}: ") and "reserved" in line]
    needed, parts = line.split(": ")[1].split(";")[0].split(" = ")
    return float(needed), [float(re.search(r"\d+\.\d", part)[0]) for part in parts.split(", ")]


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"start_peak": 30 * GIB},
        {"checkpoint_peak": 25 * GIB},
        {"start_peak": 30 * GIB, "checkpoint_peak": 29 * GIB},
    ],
)
def test_the_parts_of_a_rank_s_memory_sum_to_what_it_needs(changes):
    """Also of one that takes more before its step than in it."""
    plan = given_plan(given_record(0, **changes), given_record(1))
    json_ranks = {rank["role"]: rank["memory"] for rank in plan.to_json()["ranks"]}
    for role in ("stage 0", "stage 1"):
        needed, parts = memory_line(plan, role)
        assert needed == pytest.approx(sum(parts), abs=0.05 * len(parts))
        assert needed == pytest.approx(json_ranks[role]["needed_bytes"] / GIB, abs=0.05)
    largest = max(21 * GIB, *changes.values(), 0)
    assert memory_line(plan, "stage 0")[0] == pytest.approx(largest / GIB + 2.5 + 0.03 * 21, abs=0.06)


def test_small_kinds_are_one_number():
    kinds = {f"kind {number}": GIB for number in range(10)}
    record = given_record(0)
    record.peak.by_kind, record.peak.total = kinds, 10 * GIB
    plan = given_plan(record, given_record(1))
    assert "others 3.0" in "\n".join(lines_of(plan))


def test_shares_of_a_step_are_those_of_the_json_and_sum_to_all_of_it():
    plan = given_plan(given_record(0, 1.0), given_record(1, 1.5))
    shares = plan.to_json()["step"]["shares"]
    assert sum(shares.values()) == pytest.approx(1.0)
    printed = {
        name: float(share) for share, name in re.findall(r"^ +(\d+\.\d) %  (.+)$", "\n".join(lines_of(plan)), re.M)
    }
    assert printed == {name: pytest.approx(100 * share, abs=0.051) for name, share in shares.items() if share >= 0.005}


def test_what_is_too_little_for_a_line_is_in_one_so_that_lines_sum_to_all():
    first = given_record(0)
    first.phases[0] = Phase("step", steps=[Operation("copy_", "host_copy", bytes=2e10)])  # 0.02 s
    lines = "\n".join(lines_of(given_plan(first, given_record(1, phases=first.phases))))
    printed = {name: float(share) for share, name in re.findall(r"^ +(\d+\.\d) %  (.+)$", lines, re.M)}
    assert "inputs to the device" not in printed and 0 < printed["others"] < 0.5
    assert sum(printed.values()) == pytest.approx(100, abs=0.2)


def test_the_most_waits_of_any_rank_are_shown_once():
    lines = [line for line in lines_of(given_plan()) if "item at loop.py:9" in line]
    assert lines == ["      4  item at loop.py:9"]


def test_the_summary_says_which_rank_is_over_and_by_how_much():
    plan = given_plan(given_record(0), given_record(1, start_peak=30 * GIB), memory_gib=24.0)
    needed = 30 + 2.5 + 0.03 * 21
    assert not plan.fits and f"stage 1 needs {needed:.1f} GiB, {needed - 24:.1f} more than the 24.0" in plan_summary(
        plan
    )
    roomy = given_plan(memory_gib=48.26)
    assert roomy.fits and "24.1 of 48.3 GiB on stage 0, 50 % free" in plan_summary(roomy)


def test_the_plan_is_json_that_every_reader_takes():
    json.dumps(given_plan().to_json(), allow_nan=False)
