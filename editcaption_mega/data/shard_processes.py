"""A function of every sample of a set, over processes, in the order of the samples."""

from collections.abc import Callable, Iterator, Sequence
from itertools import batched
from typing import Any, Protocol

from editcaption_mega.process_pool import ProcessPool, cores

_SAMPLES_PER_TASK = 16
_FEWEST = 64  # for which starting processes pays


class Countable(Protocol):
    """What can be pickled and has a length, such as a `ShardReader`."""

    def __len__(self) -> int: ...


def over_samples[S: Countable, Result](
    samples: S, function: Callable[[S, int], Result], workers: int = 0
) -> Iterator[tuple[int, Result]]:
    """(i, function(samples, i)) for every i, in order. workers: processes; 0: one for each core, unless there
    are few samples; 1: this one.

    function: a name at the top of a module; what it raises is raised here. A few tasks are on their way at a time, so
    memory does not grow with the set. Raises ChildProcessError where a process is gone."""
    workers = workers or (cores() if len(samples) > _FEWEST else 1)
    if workers == 1 or len(samples) <= _SAMPLES_PER_TASK:
        yield from ((i, function(samples, i)) for i in range(len(samples)))
        return
    tasks = batched(range(len(samples)), _SAMPLES_PER_TASK)
    with ProcessPool(workers, "reads pictures", start=_start, arguments=(samples, function)) as pool:
        for _, results in pool.in_order(_results, tasks):
            yield from results


_samples: Any = None
_function: Callable[[Any, int], Any]


def _start(samples: Any, function: Callable[[Any, int], Any]) -> None:
    global _samples, _function
    _samples, _function = samples, function


def _results(task: Sequence[int]) -> list[tuple[int, Any]]:
    return [(i, _function(_samples, i)) for i in task]
