"""The order of passes and the seconds of a step, against what Megatron-Core's schedules really do on four ranks."""

import json
import math
import sys

import pytest

from editcaption_mega.planning.timing.schedule import Post, Transfer, Wait, Work, instructions, order
from editcaption_mega.planning.timing.simulation import simulate
from tests.helpers import warm

STAGES = 4
# Seconds of the passes in units of a length that the test chooses, [stage][chunk].
CASES = {
    "level": dict(forward=[[1]] * 4, backward=[[2]] * 4, micro_batches=8),
    "slow first stage": dict(forward=[[3], [1], [1], [1.5]], backward=[[4], [2], [2], [2.5]], micro_batches=8),
    "slow last stage, few micro-batches": dict(
        forward=[[1], [1], [1], [3]], backward=[[2], [3], [2], [1]], micro_batches=3
    ),
    "two chunks, level": dict(forward=[[1, 1]] * 4, backward=[[2, 2]] * 4, micro_batches=8),
    "two chunks, all in the warm-up": dict(forward=[[1, 1]] * 4, backward=[[2, 2]] * 4, micro_batches=4),
    # Stages that wait for what they send: without that the step would take 61 units.
    "two chunks, uneven": dict(
        forward=[[1, 0.5], [0.5, 2], [2, 0.5], [2, 0.5]],
        backward=[[3, 1], [0.5, 2], [0.5, 1], [3, 1]],
        micro_batches=8,
    ),
    "two chunks, groups of five": dict(forward=[[1, 1.5]] * 4, backward=[[2, 2]] * 4, micro_batches=10, group_size=5),
    "gradients behind": dict(
        forward=[[1]] * 4, backward=[[2], [1], [1], [1]], gradients=[0, 1, 1, 1], delayed=[0, 0, 0, 0], micro_batches=8
    ),
    "gradients of some micro-batches at the end": dict(
        forward=[[1]] * 4,
        backward=[[2], [1], [1.5], [1]],
        gradients=[0, 1, 1, 1.5],
        delayed=[0, 1, 1, 3],
        micro_batches=8,
    ),
    "more gradients may wait than there are micro-batches": dict(
        forward=[[1]] * 4, backward=[[2], [1], [1], [1]], gradients=[0, 1, 1, 1], delayed=[0, 0, 2, 9], micro_batches=3
    ),
    "three chunks": dict(forward=[[1, 1, 1]] * 4, backward=[[2, 1, 1]] * 4, micro_batches=8),
}


def run_cases(folder, unit: float) -> dict[str, list[dict]]:
    """Each case -> what each rank noted."""
    scaled = [
        {"group_size": None}
        | case
        | {kind: [[unit * t for t in chunks] for chunks in case[kind]] for kind in ("forward", "backward")}
        | {"gradients": [unit * t for t in case.get("gradients", ())]}
        for case in CASES.values()
    ]
    (folder / "cases.json").write_text(json.dumps(scaled))
    program = [sys.executable, "-m", "tests.planning.timing.pipeline_program", folder, folder / "cases.json"]
    warm.run_ranks(program, STAGES)
    ranks = [json.loads((folder / f"{rank}.json").read_text()) for rank in range(STAGES)]
    return {name: [rank[number] for rank in ranks] for number, name in enumerate(CASES)}


@pytest.fixture(scope="module")
def quick_runs(tmp_path_factory):
    return run_cases(tmp_path_factory.mktemp("pipeline"), unit=0.001)


@pytest.mark.parametrize("name", CASES)
def test_the_order_is_what_megatron_executes(quick_runs, name):
    case = CASES[name]
    for stage, rank in enumerate(quick_runs[name]):
        executed = [Work(kind, chunk, micro_batch) for kind, chunk, micro_batch, _, _ in rank["passes"]]
        chunks = len(case["forward"][stage])
        assert executed == order(
            stage, STAGES, chunks, case["micro_batches"], case.get("group_size"), case.get("delayed")
        )


@pytest.mark.slow
def test_the_simulated_step_takes_as_long_as_the_real_one(tmp_path):
    """The shortest of up to three runs: what else the machine does only adds to them."""
    unit = 0.15
    ratios: dict[str, float] = {}
    for _ in range(3):
        for name, ranks in run_cases(tmp_path, unit).items():
            measured = max(rank["end"] for rank in ranks) - min(rank["start"] for rank in ranks)
            ratios[name] = min(ratios.get(name, math.inf), measured / (unit * simulated(name).seconds))
        print("measured / simulated:", {name: round(ratio, 4) for name, ratio in ratios.items()})
        if max(ratios.values()) <= 1.05:
            break
    assert all(0.99 <= ratio <= 1.05 for ratio in ratios.values()), ratios


def simulated(name: str):
    case = CASES[name]
    return simulate(
        case["forward"],
        case["backward"],
        case["micro_batches"],
        group_size=case.get("group_size"),
        gradients=case.get("gradients", ()),
        delayed=case.get("delayed"),
    )


def test_one_stage_runs_forward_and_backward_in_turn():
    assert order(0, 1, 1, 2) == [
        Work("forward", 0, 0),
        Work("backward", 0, 0),
        Work("forward", 0, 1),
        Work("backward", 0, 1),
    ]


def test_a_stage_that_is_not_interleaved_waits_for_each_exchange():
    forward, backward = Transfer("forward", 0, 0), Transfer("backward", 1, 0)
    assert instructions(0, 2, 1, 1) == [
        Work("forward", 0, 0),
        Post((forward,)),
        Wait((forward,)),
        Post(receives=(backward,)),
        Wait((backward,)),
        Work("backward", 0, 0),
    ]


@pytest.mark.parametrize("stages", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("micro_batches", [1, 2, 5, 8])
def test_every_pass_runs_once_after_those_it_needs(stages, micro_batches):
    check_dependencies(stages, 1, micro_batches, None)


@pytest.mark.parametrize("stages", [2, 3, 4, 8])
@pytest.mark.parametrize("chunks", [2, 3, 4])
@pytest.mark.parametrize(("groups", "more"), [(1, 0), (2, 0), (4, 0), (1, 1), (2, 2)])
def test_every_interleaved_pass_runs_once_after_those_it_needs(stages, chunks, groups, more):
    check_dependencies(stages, chunks, groups * (stages + more), stages + more)


def check_dependencies(stages, chunks, micro_batches, group_size, transfer=0.25):
    """With uneven times: a pass begins a transfer after its neighbor's has ended, at the earliest."""
    forward = [[1 + (stage * 7 + chunk * 3) % 5 / 4 for chunk in range(chunks)] for stage in range(stages)]
    backward = [[2 + (stage * 5 + chunk * 2) % 3 / 2 for chunk in range(chunks)] for stage in range(stages)]
    timeline = simulate(forward, backward, micro_batches, transfer_seconds=transfer, group_size=group_size)
    ends, starts = {}, {}
    for stage, slots in enumerate(timeline.stages):
        assert len(slots) == 2 * chunks * micro_batches
        for slot, later in zip(slots, slots[1:], strict=False):
            assert slot.end <= later.start
        for slot in slots:
            key = slot.work.kind, slot.work.chunk * stages + stage, slot.work.micro_batch
            assert key not in ends, key
            starts[key], ends[key] = slot.start, slot.end
    last = stages * chunks - 1
    for (kind, place, micro_batch), start in starts.items():
        if kind == "forward" and place > 0:
            assert start >= ends["forward", place - 1, micro_batch] + transfer
        elif kind == "backward" and place < last:
            assert start >= ends["backward", place + 1, micro_batch] + transfer
        elif kind == "backward":
            assert start >= ends["forward", place, micro_batch]
    assert timeline.seconds >= max(ends.values())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((0, 4, 2, 3), "groups of 4 micro-batches, of 3 in all"),
        ((0, 4, 2, 6), "6 micro-batches in groups of 4 leave 2"),
        ((0, 4, 2, 8, 3), "groups of at least 4"),
        ((0, 1, 2, 8), "2 chunks on one stage: interleaving needs at least 2 stages"),
        ((4, 4, 1, 8), "stage 4 of 4: expected 0 to 3"),
        ((0, 4, 1, 0), "0 micro-batches: expected at least 1"),
    ],
)
def test_what_megatron_refuses_is_refused(arguments, message):
    with pytest.raises(ValueError, match=message):
        order(*arguments)
