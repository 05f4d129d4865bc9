"""A plan as one picture: the pipeline's step, memory of each rank role, and the worst role's memory over the step."""

from PIL import Image

from .plan import GIB, JobPlan
from .timing.charts import draw_memory, draw_memory_timeline, draw_timeline, lanes_of, stack_pictures

# After the states, which never change, what comes and goes; all other kinds are small, and drawn as one.
_DRAWN = ("reference weights", "vision", "attention", "feed-forward", "experts", "activations", "inputs", "update")
_BEYOND_STEP = "start or checkpoint"


def draw_plan(plan: JobPlan) -> Image.Image:
    """Of `timing.charts`' width, in RGB."""
    time, limit = plan.time, plan.memory_gib * GIB
    roles, points = memory_of_roles(plan), memory_over_step(plan)
    # Both charts name the same kinds in the same order, so a kind has one color.
    drawn = [*roles.values(), *(sizes for _, sizes in points)]
    kinds = [kind for kind in next(iter(roles.values())) if any(sizes.get(kind) for sizes in drawn)]
    title = (
        f"{plan.world_size} x {plan.hardware.name}: step {time.seconds:.2f} s, MFU {100 * time.mfu:.1f} %, bubble "
        f"{100 * time.bubble:.0f} %"
    )
    return stack_pictures(
        [
            draw_timeline(lanes_of(time.timeline), title),
            draw_memory(
                {role: {kind: sizes[kind] for kind in kinds} for role, sizes in roles.items()},
                "Peak memory per rank",
                limit_bytes=limit,
            ),
            draw_memory_timeline(
                [(x, {kind: sizes[kind] for kind in kinds}) for x, sizes in points],
                f"Memory of {plan.roles[plan.worst].name} over the executed micro-batches",
                limit_bytes=limit,
            ),
        ]
    )


def memory_of_roles(plan: JobPlan) -> dict[str, dict[str, float]]:
    """Role -> kind -> bytes; the kinds of a role sum to what it needs."""
    roles = {}
    for role, record in zip(plan.roles, plan.records, strict=True):
        sizes = _joined(record.peak.by_kind, record.states, plan.reserved(record))
        roles[role.name] = {**sizes, _BEYOND_STEP: plan.beyond_step(record)}
    return roles


def memory_over_step(plan: JobPlan) -> list[tuple[float, dict[str, float]]]:
    """Of the worst role: (operator, kind -> bytes), of the kinds of `memory_of_roles`."""
    record = plan.records[plan.worst]
    reserve = plan.reserved(record)
    return [
        (float(operator), {**_joined(kinds, record.states, reserve), _BEYOND_STEP: 0.0})
        for operator, kinds in record.timeline
    ]


def _joined(kinds: dict[str, int], states: dict[str, int], reserve: float) -> dict[str, float]:
    ordered: dict[str, float] = {"reserve": reserve, **{kind: kinds.get(kind, 0) for kind in (*states, *_DRAWN)}}
    ordered["others"] = sum(size for kind, size in kinds.items() if kind not in ordered)
    return ordered
