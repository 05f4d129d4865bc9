"""Seconds that a step of a layout takes at least, before its stages are put together: for a search, which need not look
at a layout whose least is more than what it has."""

from ..timing.cost import StreamTime
from .pieces import StagePart

# Longer rows give larger products, which are faster: of what the GPU was busy with shorter ones, this much remains.
_LONGER_ROWS = 0.85
# A stage that is slower than the others hides a part of the time in which they fill and drain the pipeline.
_UNEVEN = 0.97


def least_seconds(
    first: StagePart, layer: StagePart, last: StagePart, *, layers: int, stages: int, virtual: int, micro_batches: int
) -> float:
    """The step were all stages equally long, or as long as what the first and the last have to do at least.

    first, last: their own work without layers; layer: of one, without recomputation."""
    total = layers * layer.busy + first.busy + last.busy
    draining = (layers * layer.draining + first.draining + last.draining) / total
    if stages == 1:
        return micro_batches * total
    least = virtual - 1  # layers that the first stage and the last have at least
    slowest = max(total / stages, first.busy + least * layer.busy, last.busy + least * layer.busy)
    return _UNEVEN * (micro_batches * slowest + draining * (total - slowest) / virtual)


def in_longer_rows(part: StagePart, samples: int) -> StagePart:
    """The least that the part takes for rows of so many samples, from what it takes for one."""

    def least(time: StreamTime) -> StreamTime:
        return StreamTime(max(time.seconds, _LONGER_ROWS * samples * sum(time.by_kind.values())))

    return StagePart(least(part.forward), least(part.backward), least(part.made_later))
