"""A plan whose records are made by hand: two stages whose sizes and times can be added up in one's head."""

from collections import Counter
from dataclasses import replace

from editcaption_mega.model.released import architecture_to_plan
from editcaption_mega.planning.dry_run.memory import Peak
from editcaption_mega.planning.dry_run.rank_step import RankRecord
from editcaption_mega.planning.dry_run.recorder import HostSync, Phase
from editcaption_mega.planning.plan import JobPlan
from editcaption_mega.planning.roles import distinct_roles
from editcaption_mega.planning.step_time import predict
from editcaption_mega.planning.timing.cost import Communication, Operation
from editcaption_mega.planning.timing.hardware import Hardware, load_hardware
from editcaption_mega.settings import load_job
from tests.helpers import ROOT

GIB = 2**30
STAGES, RANKS, MICRO_BATCHES = 2, 4, 4
# Of products alone, 1e12 FLOP take a second; launches take none.
HARDWARE = replace(load_hardware("h100"), peak_flops=2e12, launch_seconds=0.0, sync_seconds=0.0)
HARDWARE = replace(HARDWARE, matmul=[replace(HARDWARE.matmul[-1], rate=1e12)], copy_bandwidth=1e12, pcie_bandwidth=1e12)


def product(seconds: float) -> Operation:
    return Operation("mm", "matmul", flops=seconds * 1e12, rows=8, columns=8, inner=8)


def given_record(stage: int, seconds: float = 1.0, **changes) -> RankRecord:
    """A stage whose forward pass takes `seconds`, its backward pass twice as many, and the update one."""
    kinds = {"weights": 4 * GIB, "gradients": 8 * GIB, "optimizer": 6 * GIB, "attention": 2 * GIB, "inputs": GIB}
    phases = [Phase("step", steps=[Operation("copy_", "host_copy", bytes=5e11)])]
    for number in range(2):
        phases.append(Phase("forward", 0, number, [product(seconds)]))
        phases.append(Phase("backward", 0, number, [product(2 * seconds)]))
    phases.append(Phase("step", steps=[Operation("add", "copy", bytes=1e12)]))
    first = stage * RANKS // STAGES
    record = RankRecord(
        rank=first, coordinates={"pipeline": stage, "tensor": 0, "expert": 0, "data": 0}, parameters=2 * 10**9,
        states={kind: kinds[kind] for kind in ("weights", "gradients", "optimizer")},
        peak=Peak(sum(kinds.values()), kinds, "backward 1 of chunk 0", 7, ["editcaption_mega/somewhere.py:1"]),
        start_peak=18 * GIB, checkpoint_peak=18 * GIB, checkpoint_bytes=6 * GIB, inputs=GIB,
        timeline=[(0, dict.fromkeys(kinds, 0) | {"weights": 4 * GIB}), (7, kinds), (9, {**kinds, "attention": 0})],
        phases=phases, host_syncs=Counter({HostSync("item", "loop.py:9"): 3 + stage}), mixed=Counter(),
        micro_batches=MICRO_BATCHES, executed=2, row_length=1024, tokens=MICRO_BATCHES * 1024, patches=0,
        patches_of_rows=0, seconds=0.0,
    )  # fmt: skip
    return replace(record, **changes)


def send(bytes: float, first: int, second: int) -> Communication:
    return Communication("send", bytes, (first, second))


def given_plan(*records: RankRecord, memory_gib: float = 40.0, hardware: Hardware = HARDWARE) -> JobPlan:
    records = records or (given_record(0), given_record(1))
    settings = load_job(
        ROOT / "configs/sft_qwen3_vl_2b.yaml", [f"parallel.pipeline_model_parallel_size={len(records)}"]
    )
    time = predict(records, hardware, RANKS, 1)
    roles = tuple(distinct_roles(settings, RANKS))
    return JobPlan(
        settings, architecture_to_plan("Qwen3-VL-2B"), RANKS, hardware, memory_gib, 2 * 10**9, roles, records, time
    )
