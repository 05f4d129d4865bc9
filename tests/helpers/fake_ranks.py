"""Ranks of a world that is not there, one after the other in one dry process: real groups, tensors without values."""

import math
import os
import pickle
import traceback
from collections.abc import Callable, Sequence
from multiprocessing.connection import Connection
from typing import Any

from editcaption_mega.settings import ParallelSettings
from tests.helpers import warm


def smallest_world(parallel: ParallelSettings) -> int:
    """The fewest ranks that hold a whole model in this layout; further ranks hold copies."""
    tensor = parallel.tensor_model_parallel_size
    experts = (parallel.expert_tensor_parallel_size or tensor) * parallel.expert_model_parallel_size
    return parallel.pipeline_model_parallel_size * math.lcm(tensor, experts)


def on_fake_ranks(
    work: Callable[..., Any],
    parallel: ParallelSettings,
    world_size: int,
    *arguments: Any,
    ranks: Sequence[int] | None = None,
    seconds: float = 300.0,
) -> list[Any]:
    """`work(*arguments)` on each of `ranks` (None: all) -> what each returned.

    `work` stands at the top of its file, and what goes there and back is pickled. AssertionError where it failed."""
    reply, sender = warm.context.Pipe(duplex=False)
    task = pickle.dumps((work, parallel, world_size, arguments, list(range(world_size)) if ranks is None else ranks))
    process = warm.context.Process(target=_be_ranks, args=(dict(os.environ), sender, task), daemon=True)
    process.start()
    sender.close()
    try:
        assert reply.poll(seconds), "the ranks hang"
        outcome = reply.recv()
    except EOFError:
        outcome = "the process of the ranks died"
    finally:
        process.kill()
    assert isinstance(outcome, list), outcome
    return outcome


def _be_ranks(environment: dict[str, str], reply: Connection, task: bytes) -> None:
    """In the forked process."""
    os.environ.clear()
    os.environ.update(environment, OMP_NUM_THREADS="1")
    try:
        work, parallel, world_size, arguments, ranks = pickle.loads(task)
        reply.send([_on_rank(rank, work, parallel, world_size, arguments) for rank in ranks])
    except Exception:
        reply.send(traceback.format_exc())


def _on_rank(rank: int, work: Callable[..., Any], parallel: ParallelSettings, world_size: int, arguments: tuple) -> Any:
    import torch.distributed as dist
    from torch.testing._internal.distributed.fake_pg import FakeStore

    from editcaption_mega import platform
    from editcaption_mega.training.setup import layout_of

    platform.prepare(dry=True)
    dist.init_process_group("cpu:fake,meta:fake", rank=rank, world_size=world_size, store=FakeStore())
    try:
        platform.initialize(layout_of(parallel), seed=0)
        return work(*arguments)
    finally:
        platform.destroy()
