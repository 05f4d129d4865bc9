"""Work that is divided among processes, each forked from this one and told one item at a time.

A forked process has all that its parent has read and opened, so it begins at once. The parent must not have computed in
threads before; the processes compute in one thread each, as the workers of PyTorch's DataLoader do.
"""

import multiprocessing
import signal
import warnings
from collections.abc import Callable, Generator
from multiprocessing import connection
from typing import Any

import torch

from editcaption_mega import signals

Steps = Generator[int, None, Any]  # of one item: yields how much more of it is done, returns its result


def work_off[Item](items: list[Item], work: Callable[[Item], Steps], workers: int) -> Generator[int, None, list[Any]]:
    """Yields how much more is done, returns the result of each item. Of one worker, in this process.

    Raises what an item's work raised, when all processes have ended; OSError where a process was killed."""
    if min(workers, len(items)) < 2:
        results = []
        for item in items:
            results.append((yield from work(item)))
        return results
    return (yield from _in_processes(items, work, min(workers, len(items))))


def _in_processes[Item](
    items: list[Item], work: Callable[[Item], Steps], workers: int
) -> Generator[int, None, list[Any]]:
    context = multiprocessing.get_context("fork")
    results: list[Any] = [None] * len(items)
    waiting, processes = list(range(len(items)))[::-1], {}
    try:
        for _ in range(workers):
            ours, theirs = context.Pipe()
            process = context.Process(target=_serve, args=(items, work, theirs), daemon=True)
            with warnings.catch_warnings():
                warnings.simplefilter("ignore", DeprecationWarning)  # threads of libraries that wait for work
                process.start()
            theirs.close()
            processes[ours] = process
            ours.send(waiting.pop())
        busy = set(processes)
        while busy:
            for end in connection.wait(list(busy)):
                assert isinstance(end, connection.Connection)
                kind, number, value = _message(end, processes[end])
                if kind == "more":
                    yield value
                elif kind == "failed":
                    raise value
                else:
                    results[number] = value
                    if waiting:
                        end.send(waiting.pop())
                    else:
                        busy.remove(end)
        return results
    finally:
        for process in processes.values():
            process.kill()
        for process in processes.values():
            process.join()


def _message(end: connection.Connection, process: Any) -> tuple[str, int, Any]:
    try:
        message: tuple[str, int, Any] = end.recv()
    except (EOFError, ConnectionResetError):
        process.join()
        number = -process.exitcode
        name = signal.Signals(number).name if number > 0 else f"exit code {process.exitcode}"
        raise ChildProcessError(
            f"a process that shared the work was ended from outside ({name}; SIGKILL may mean that the machine had no "
            "memory left): start the same command again, with fewer --workers if it was memory"
        ) from None
    return message


def _serve[Item](items: list[Item], work: Callable[[Item], Steps], end: connection.Connection) -> None:
    """In the forked process. A Ctrl-C reaches it too: it ends without a word, so the parent's is the only one."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    signals.end_with_parent()
    torch.set_num_threads(1)
    while True:
        try:
            number = end.recv()
        except EOFError:
            return
        steps = work(items[number])
        try:
            while True:
                end.send(("more", number, next(steps)))
        except StopIteration as stop:
            end.send(("done", number, stop.value))
        except Exception as error:
            end.send(("failed", number, error))
