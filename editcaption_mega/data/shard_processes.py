"""A function of every sample of a set, over processes, in the order of the samples."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from itertools import batched
from typing import Any, Protocol

from editcaption_mega import signals

_SAMPLES_PER_TASK = 16
_TASKS_PER_WORKER = 4  # on their way
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
    memory does not grow with the set. Raises ChildProcessError where a process is ended from outside."""
    workers = workers or (cores() if len(samples) > _FEWEST else 1)
    if workers == 1 or len(samples) <= _SAMPLES_PER_TASK:
        yield from ((i, function(samples, i)) for i in range(len(samples)))
        return
    context = multiprocessing.get_context("forkserver")
    with ProcessPoolExecutor(workers, mp_context=context, initializer=_start, initargs=(samples, function)) as pool:
        waiting: deque[Future[list[tuple[int, Result]]]] = deque()
        try:
            for task in batched(range(len(samples)), _SAMPLES_PER_TASK):
                waiting.append(pool.submit(_results, task))
                if len(waiting) >= _TASKS_PER_WORKER * workers:
                    yield from waiting.popleft().result()
            while waiting:
                yield from waiting.popleft().result()
        except BrokenProcessPool:
            raise ChildProcessError(
                "a process that reads pictures was ended from outside, which the system does when memory is short: "
                "use fewer (--workers)"
            ) from None
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def cores() -> int:
    """Those that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


_samples: Any = None
_function: Callable[[Any, int], Any]


def _start(samples: Any, function: Callable[[Any, int], Any]) -> None:
    """In a process that will be asked for samples: a Ctrl-C is the caller's to answer, and it ends with its caller."""
    global _samples, _function
    _samples, _function = samples, function
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signals.end_with_parent()


def _results(task: Sequence[int]) -> list[tuple[int, Any]]:
    return [(i, _function(_samples, i)) for i in task]
