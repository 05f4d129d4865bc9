"""Processes that do tasks, each with a pipe of its own.

The pools of the standard library have one pipe for all results. A process that is killed while it writes to that leaves
half a message, and the reader waits for the rest as long as another process holds the pipe open: forever. A pipe that
one process alone writes to ends with it.
"""

import multiprocessing
import os
import pickle
import signal
import threading
import traceback
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future
from functools import cache
from multiprocessing import forkserver
from multiprocessing.connection import Connection
from multiprocessing.process import BaseProcess
from queue import Empty, SimpleQueue
from typing import Any

from editcaption_mega import signals

_AHEAD = 2  # tasks on their way for each process, beside the one that it does

type _Call = tuple[Callable[..., Any], tuple[Any, ...]]


class ProcessPool:
    """Up to `workers` processes, which start with the first tasks and end with the `with` block, whatever they do then:
    results that are still wanted are waited for inside.

    purpose: what they do, for the error of one that is killed: "a process that {purpose} ended with code -9".
    start: called in each process first, with `arguments`. preload: a module that the server imports from which the
    processes are forked; only the first pool's counts. tasks_each: tasks that a process does before a new one takes its
    place. Functions, their arguments, results and errors are pickled.

    A Ctrl-C reaches every process of a terminal: these ignore it, and end with the process that made them, however that
    ends."""

    def __init__(
        self,
        workers: int,
        purpose: str,
        *,
        start: Callable[..., None] | None = None,
        arguments: tuple[Any, ...] = (),
        preload: str | None = None,
        tasks_each: int | None = None,
    ):
        self._context = multiprocessing.get_context("forkserver")
        if preload:
            self._context.set_forkserver_preload([preload])
        self._workers, self._purpose, self._tasks_each = workers, purpose, tasks_each
        self._first = (start, arguments)
        self._tasks: SimpleQueue[tuple[Future[Any], _Call] | None] = SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._processes: dict[Connection, BaseProcess] = {}
        self._lock = threading.Lock()  # of the processes
        self._failure: str | None = None
        self._closed = False

    def submit[Result](self, function: Callable[..., Result], *arguments: Any) -> "Future[Result]":
        """The result to come. Its errors: what the function raised, and ChildProcessError for a process that is gone,
        which ends the pool."""
        if self._closed:
            raise RuntimeError("the pool of processes is closed")
        future: Future[Result] = Future()
        self._tasks.put((future, (function, arguments)))
        if self._failure:
            self._refuse_waiting()
        elif len(self._threads) < self._workers:
            _start_server()
            self._threads.append(threading.Thread(target=self._serve, args=self._begin(), daemon=True))
            self._threads[-1].start()
        return future

    def in_order[Task, Result](
        self, function: Callable[[Task], Result], tasks: Iterable[Task]
    ) -> Iterator[tuple[Task, Result]]:
        """Each task with its result, in their order. Few are read ahead, so memory does not grow with their number.

        Raises as `submit`; what the tasks themselves raise comes behind the results of those before it."""
        waiting: deque[tuple[Task, Future[Result]]] = deque()
        failure: Exception | None = None
        tasks = iter(tasks)
        while True:
            try:
                task = next(tasks)
            except StopIteration:
                break
            except Exception as error:
                failure = error
                break
            waiting.append((task, self.submit(function, task)))
            if len(waiting) > (1 + _AHEAD) * self._workers:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
        if failure is not None:
            raise failure

    def close(self) -> None:
        """End the processes; a task that is not done is canceled, and its result never comes."""
        with self._lock:
            self._closed = True
            for process in self._processes.values():
                process.kill()
        self._refuse_waiting()
        for _ in self._threads:
            self._tasks.put(None)
        for thread in self._threads:
            thread.join()

    def __enter__(self) -> "ProcessPool":
        return self

    def __exit__(self, *failure: object) -> None:
        self.close()

    def _begin(self) -> tuple[Connection, BaseProcess]:
        """A process, and this side of its pipe."""
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=_work, args=(theirs, *self._first), daemon=True)
        with self._lock:
            process.start()
            theirs.close()  # so that the pipe ends with the process
            self._processes[ours] = process
            if self._closed:
                process.kill()
        return ours, process

    def _end(self, pipe: Connection, process: BaseProcess) -> None:
        pipe.close()
        process.join()
        with self._lock:
            del self._processes[pipe]

    def _serve(self, pipe: Connection, process: BaseProcess) -> None:
        """Give a process its tasks, in a thread: its pipe is read and written here alone."""
        done = 0
        while (item := self._tasks.get()) is not None and not self._failure:
            future, call = item
            if not future.set_running_or_notify_cancel():
                continue
            if done and done == self._tasks_each:
                self._end(pipe, process)
                pipe, process = self._begin()
                done = 0
            try:
                answer = _asked(pipe, call)
            except (EOFError, OSError):
                process.join()
                if not self._closed:
                    self._fail(process.exitcode)
                future.set_exception(ChildProcessError(self._failure or "the pool of processes was closed"))
                break
            except Exception as error:  # of a task that cannot be pickled
                future.set_exception(error)
                continue
            done += 1
            kind, value = answer
            if kind == "done":
                future.set_result(value)
            else:
                future.set_exception(value)
        else:
            if item is not None:
                self._tasks.put(item)
        self._end(pipe, process)
        if self._failure:
            self._refuse_waiting()

    def _fail(self, code: int | None) -> None:
        self._failure = (
            f"a process that {self._purpose} ended with code {code}, which the system does to a process when memory is "
            "short (-9): run the same command again, with fewer --workers if it happens again"
        )

    def _refuse_waiting(self) -> None:
        """Answer those that no process will do."""
        while True:
            try:
                item = self._tasks.get_nowait()
            except Empty:
                return
            if item is None:  # for a thread, which ends; nothing comes behind it
                self._tasks.put(None)
                return
            future, _ = item
            if self._failure is None:
                future.cancel()
            elif future.set_running_or_notify_cancel():
                future.set_exception(ChildProcessError(self._failure))


def usable_cores() -> frozenset[int]:
    """Those that this process may run on, as Slurm or a launcher has bound it."""
    return frozenset(os.sched_getaffinity(0) if hasattr(os, "sched_getaffinity") else range(os.cpu_count() or 1))


def cores() -> int:
    return len(usable_cores())


def portable(error: Exception) -> Exception:
    """The error as it can travel between processes: of its own class where that can be made again, else with its
    traceback, for whoever meets a defect."""
    try:
        twin: Exception = pickle.loads(pickle.dumps(error))
        if type(twin) is type(error) and str(twin) == str(error):
            return error
    except Exception:  # whatever a class's own pickling raises
        pass
    kind = ValueError if isinstance(error, ValueError) else RuntimeError
    return kind(str(error) if kind is ValueError else "".join(traceback.format_exception(error)))


def _asked(pipe: Connection, call: _Call) -> tuple[str, Any]:
    pipe.send(call)
    answer: tuple[str, Any] = pipe.recv()
    return answer


@cache
def _start_server() -> None:
    """Until the server serves.

    It ignores interrupts then, but not while it imports: it inherits that from here. A process that it forks after its
    caller has left would complain, so the first that it is asked for needs nothing of the caller."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    multiprocessing.get_context("forkserver").Process(target=os.getpid).start()


def _work(pipe: Connection, start: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    """What a process does: tasks, until the pipe ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signals.end_with_parent()
    if start is not None:
        start(*arguments)
    while True:
        try:
            function, given = pipe.recv()
        except (EOFError, OSError):
            return
        try:
            answer = ("done", function(*given))
        except Exception as error:
            answer = ("failed", portable(error))
        try:
            pipe.send(answer)
        except (EOFError, OSError):
            return
        except Exception as error:  # of a result that cannot be pickled
            pipe.send(("failed", portable(error)))
