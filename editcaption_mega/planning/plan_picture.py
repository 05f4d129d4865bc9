"""A plan as one picture: the pipeline's step, memory of each rank role, and the worst role's memory over the step."""

from PIL import Image

from .plan import GIB, JobPlan
from .timing.charts import draw_memory, draw_memory_timeline, draw_timeline, lanes_of, stack_pictures


def draw_plan(plan: JobPlan) -> Image.Image:
    """Of `timing.charts`' width, in RGB."""
    time, limit = plan.time, plan.memory_gib * GIB
    roles = {}
    for role, record in zip(plan.roles, plan.records, strict=True):
        kinds = dict(sorted(record.peak.by_kind.items(), key=lambda item: -item[1]))
        roles[role.name] = {**kinds, "reserve": plan.reserved(record)}
    worst = plan.records[plan.worst]
    reserve = {"reserve": plan.reserved(worst)}
    points = [(float(operator), {**reserve, **_joined(kinds, worst.states)}) for operator, kinds in worst.timeline]
    title = (
        f"{plan.world_size} x {plan.hardware.name}: step {time.seconds:.2f} s, MFU {100 * time.mfu:.1f} %, bubble "
        f"{100 * time.bubble:.0f} %"
    )
    return stack_pictures(
        [
            draw_timeline(lanes_of(time.timeline), title),
            draw_memory(roles, "Peak memory per rank", limit_bytes=limit),
            draw_memory_timeline(
                points, f"Memory of {plan.roles[plan.worst].name} over the executed micro-batches", limit_bytes=limit
            ),
        ]
    )


_DRAWN = ("vision", "attention", "feed-forward", "experts", "activations", "inputs", "update")


def _joined(kinds: dict[str, int], states: dict[str, int]) -> dict[str, float]:
    """The states first, since they never change, then what comes and goes; small kinds are one."""
    ordered: dict[str, float] = {kind: kinds.get(kind, 0) for kind in (*states, *_DRAWN)}
    ordered["others"] = sum(size for kind, size in kinds.items() if kind not in ordered)
    return ordered
