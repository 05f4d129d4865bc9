"""A plan as text."""

from collections.abc import Iterator

from .plan import GIB, JobPlan

_MOST_KINDS = 7  # of memory in a line; the rest is one number
_LEAST_SHARE = 0.005  # of a step that is worth a line


def lines_of(plan: JobPlan) -> Iterator[str]:
    """What a person reads of a plan."""
    yield from _memory(plan)
    yield ""
    yield from _time(plan)
    yield ""
    yield from _host(plan)


def plan_summary(plan: JobPlan) -> str:
    """One line: whether it fits, and how fast it is."""
    role, record = plan.roles[plan.worst], plan.records[plan.worst]
    needed = plan.needed(record) / GIB
    if plan.fits:
        memory = f"fits: {needed:.1f} of {plan.memory_gib:.1f} GiB on {role.name}, {100 * plan.headroom:.0f} % free"
    else:
        over = needed - plan.memory_gib
        memory = f"does not fit: {role.name} needs {needed:.1f} GiB, {over:.1f} more than the {plan.memory_gib:.1f}"
    time = plan.time
    return (
        f"{plan.world_size} x {plan.hardware.name}: {memory}; step {time.seconds:.2f} s, MFU {100 * time.mfu:.1f} %, "
        f"bubble {100 * time.bubble:.0f} %, {plan.pairs_per_second:.1f} pairs/s"
    )


def _memory(plan: JobPlan) -> Iterator[str]:
    if plan.adapters is not None:
        yield plan.adapters.lines()[0]
    yield f"memory per rank in GiB, of {plan.memory_gib:.1f} (peak of the step, and what is reserved beside tensors)"
    for role, record in zip(plan.roles, plan.records, strict=True):
        peak, reserved = record.peak, plan.reserved(record)
        kinds = sorted(peak.by_kind.items(), key=lambda item: -item[1])
        parts = [f"{kind} {size / GIB:.1f}" for kind, size in kinds[:_MOST_KINDS]]
        rest = sum(size for _, size in kinds[_MOST_KINDS:])
        if rest > 0.05 * GIB:
            parts.append(f"others {rest / GIB:.1f}")
        if more := plan.beyond_step(record):
            parts.append(f"{more / GIB:.1f} more before the step or in a checkpoint")
        yield (
            f"  {role.name}: {plan.needed(record) / GIB:.1f} = {', '.join(parts)}, reserved {reserved / GIB:.1f}; "
            f"{record.parameters / 1e9:.3f} B parameters; peak in {peak.phase}"
            + (f" at {peak.stack[0]}" if peak.stack else "")
        )

    start = max(record.start_peak for record in plan.records)
    saving = max(record.checkpoint_peak for record in plan.records)
    written, on_host = max(plan.written_bytes), max(plan.checkpoint_host_bytes)
    yield f"  while a job starts or resumes: at most {start / GIB:.1f} of tensors"
    yield (
        f"  while a checkpoint is taken: at most {saving / GIB:.1f} of tensors; a rank writes up to "
        f"{written / GIB:.1f}, with {on_host / GIB:.1f} on the host at once"
    )
    yield f"  megatron_to_hf, without a GPU: about {plan.export_host_bytes / GIB:.1f} of the host's memory"
    if plan.adapters is not None:
        yield f"  the adapters alone, with --adapter: a folder of {plan.adapter_bytes / GIB:.2f}"


def _time(plan: JobPlan) -> Iterator[str]:
    time, record = plan.time, plan.records[0]
    yield (
        f"step {time.seconds:.3f} s: {record.micro_batches} micro-batches of {record.row_length:,} tokens per rank, "
        f"MFU {100 * time.mfu:.1f} % (vision {100 * time.mfu_vision:.1f}), bubble {100 * time.bubble:.0f} %, slowest "
        f"stage {time.imbalance:.2f} x the mean"
    )
    for stage, passes in enumerate(time.passes):
        yield f"  stage {stage}: {passes}, idle {100 * time.timeline.idle[stage]:.0f} %"
    yield "  where the busiest stage's time goes:"
    for name, share in time.shares.items():
        if share >= _LEAST_SHARE:
            yield f"    {100 * share:5.1f} %  {name}"
    rest = 1 - sum(share for share in time.shares.values() if share >= _LEAST_SHARE)
    if rest >= 0.0005:
        yield f"    {100 * rest:5.1f} %  others"


def _host(plan: JobPlan) -> Iterator[str]:
    yield "places where the host waits for the GPU, per rank and executed step:"
    counts: dict[tuple[str, str], int] = {}
    for record in plan.records:
        for sync, count in record.host_syncs.items():
            key = (sync.what, sync.where)
            counts[key] = max(counts.get(key, 0), count)
    for (what, where), count in sorted(counts.items(), key=lambda item: -item[1]):
        yield f"  {count:5d}  {what} at {where}"
    waits = {where for _, where in counts}
    for mix in {mix for record in plan.records for mix in record.mixed}:
        waiting = "" if mix.where in waits else ", where the host does not wait"
        yield f"  tensors of the host and of the GPU meet in {mix.what} at {mix.where}{waiting}"
