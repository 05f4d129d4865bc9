"""Several ranks of one gloo group: processes forked from the one that holds the imports and nothing else (`warm`).

A fork of the test's own process would have the groups and the pools of threads of whatever ran there before, without
their threads, and hang where it waits for one of them.
"""

import os
import pickle
import time
import traceback
from collections.abc import Callable
from multiprocessing import connection
from pathlib import Path
from typing import Any

from tests.helpers import warm


def on_ranks(
    work: Callable[..., Any], folder: Path, *arguments: Any, count: int = 2, seconds: float = 120.0
) -> list[Any]:
    """`work(rank, *arguments)` on each rank -> what each returned, or the exception that it raised.

    `work` stands at the top of its file, and what goes there and back is pickled. What a rank prints is printed here.
    AssertionError when a rank hangs or dies, its group's meeting file in `folder`."""
    meeting, deadline = folder / "rendezvous", time.monotonic() + seconds
    outputs = [connection.Connection(os.dup(number), readable=False) for number in (1, 2)]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    task = pickle.dumps((work, arguments))  # opened in the rank where its outputs are ours: an import may fail there
    processes, replies = [], []
    for rank in range(count):
        reply, sender = warm.context.Pipe(duplex=False)
        process = warm.context.Process(
            target=_be_rank, args=(rank, count, meeting, environment, outputs, sender, task), daemon=True
        )
        process.start()
        sender.close()
        processes.append(process)
        replies.append(reply)
    try:
        answered = [reply.poll(max(0.0, deadline - time.monotonic())) for reply in replies]
        assert all(answered), f"ranks {[rank for rank in range(count) if not answered[rank]]} hang"
        outcomes = [_outcome(reply, rank) for rank, reply in enumerate(replies)]
        for process in processes:
            process.join(max(0.0, deadline - time.monotonic()))
        codes = [process.exitcode for process in processes]
        assert codes == [0] * count, f"the ranks ended with {codes}, where None still runs"
    finally:
        for process in processes:
            process.kill()
        for end in (*outputs, *replies):
            end.close()
        meeting.unlink(missing_ok=True)
    return outcomes


def _outcome(reply: connection.Connection, rank: int) -> Any:
    try:
        return reply.recv()
    except EOFError:
        raise AssertionError(f"rank {rank} died; what it printed is above") from None


def _be_rank(rank, count, meeting, environment, outputs, reply, task: bytes) -> None:
    """In the forked process."""
    warm.settle(environment, *outputs)
    work, arguments = pickle.loads(task)
    import torch.distributed as dist

    dist.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=count)
    try:
        outcome = work(rank, *arguments)
    except Exception as error:
        traceback.print_exc()
        outcome = error
    reply.send(outcome)
    dist.barrier()  # nobody leaves while another one still talks
