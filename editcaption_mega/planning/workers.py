"""Processes that execute ranks without values, forked from a server that has imported what they need."""

import multiprocessing
import os
import signal
import threading
from concurrent.futures import ProcessPoolExecutor
from functools import cache
from multiprocessing import forkserver

from editcaption_mega import signals


def worker_pool(module: str, most: int | None = None, *, tasks_each: int | None = None) -> ProcessPoolExecutor:
    """As many workers as there are processors, `most` at the most. module: what the server imports before its first
    fork; tasks_each: of a process, before a new one takes its place.

    A Ctrl-C reaches every process of the terminal: workers end at once and without a word, so the caller's is the only
    one. They end with a caller that is killed, too."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([module])
    _start_server()
    workers = min(most or os.cpu_count() or 1, os.cpu_count() or 1)
    return ProcessPoolExecutor(
        workers, mp_context=context, max_tasks_per_child=tasks_each, initializer=_end_with_caller
    )


@cache
def _start_server() -> None:
    """Until the server serves.

    It ignores interrupts then, but not while it imports: it inherits that from here. A worker that it forks after its
    caller has left would complain, so the first that it is asked for needs nothing of the caller."""
    if threading.current_thread() is not threading.main_thread():  # which alone may set what a signal does
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        forkserver.ensure_running()
    finally:
        signal.signal(signal.SIGINT, before)
    multiprocessing.get_context("forkserver").Process(target=os.getpid).start()


def _end_with_caller() -> None:
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    signals.end_with_parent()
