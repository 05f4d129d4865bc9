"""What a stage holds at each moment of its schedule, counted in micro-batches."""

from collections import defaultdict
from collections.abc import Iterable
from functools import lru_cache
from operator import ge

from .schedule import order


@lru_cache(maxsize=4096)
def moments(
    stage: int, stages: int, chunks: int, micro_batches: int, delayed: tuple[int, ...] | None = None
) -> tuple[tuple[str, int, tuple[int, ...]], ...]:
    """The (pass, its chunk, micro-batches of each chunk in flight before it and those whose weight gradients wait) of a
    stage's schedule, without those where the same pass meets no more of any at another moment."""
    flying = [0] * (chunks + 1)  # the last: those that wait
    seen: dict[tuple[str, int], set[tuple[int, ...]]] = defaultdict(set)
    for work in order(stage, stages, chunks, micro_batches, None, delayed):
        seen[work.kind, work.chunk].add(tuple(flying))
        if work.kind == "gradients":
            flying[-1] -= 1
        else:
            flying[work.chunk] += 1 if work.kind == "forward" else -1
            flying[-1] += work.kind == "backward" and delayed is not None and stage > 0
    return tuple((*of, counts) for of, every in seen.items() for counts in every if not _exceeded(counts, every))


def _exceeded(counts: tuple[int, ...], every: Iterable[tuple[int, ...]]) -> bool:
    return any(other != counts and all(map(ge, other, counts)) for other in every)
