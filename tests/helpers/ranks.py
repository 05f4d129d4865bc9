"""Several ranks of one gloo group, forked from the test's own process, so that nothing is imported twice."""

import gc
import multiprocessing
import os
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist


def on_ranks(work: Callable[[int], Any], folder: Path, count: int = 2, seconds: float = 120.0) -> list[Any]:
    """`work(rank)` on each rank -> what each returned, or the exception that it raised. Fails when a rank hangs."""
    context = multiprocessing.get_context("fork")
    results, store = context.SimpleQueue(), folder / "rendezvous"

    def body(rank: int) -> None:
        # A fork has none of OpenMP's threads and would wait for them; `platform.initialize` reads this.
        os.environ["OMP_NUM_THREADS"] = "1"
        torch.set_num_threads(1)
        dist.init_process_group("gloo", init_method=f"file://{store}", rank=rank, world_size=count)
        try:
            outcome = work(rank)
        except Exception as error:
            traceback.print_exc()
            outcome = error
        results.put((rank, outcome))
        dist.barrier()  # nobody leaves while another one still talks

    processes = [context.Process(target=body, args=(rank,), daemon=True) for rank in range(count)]
    # The threads of this process's groups are not in a fork, where a collector that met the groups would wait for them.
    gc.collect()
    gc.freeze()
    for process in processes:
        process.start()
    gc.unfreeze()
    for process in processes:
        process.join(seconds)
    hanging = [i for i, process in enumerate(processes) if process.is_alive()]
    for process in processes:
        process.kill()
    assert not hanging, f"ranks {hanging} hang"
    store.unlink(missing_ok=True)
    outcomes = {}
    while not results.empty():
        rank, outcome = results.get()
        outcomes[rank] = outcome
    return [outcomes[rank] for rank in range(count)]
