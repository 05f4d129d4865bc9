"""Process groups and the device of this rank."""

import datetime
import gc
import os
import random
from dataclasses import dataclass

import torch
import torch.distributed as dist

from editcaption_mega.process_pool import cores

from .machine import is_dry, prepare


@dataclass(frozen=True)
class Layout:
    """How the ranks are divided. Sizes are counts of ranks; `expert_tensor` defaults to `tensor`."""

    tensor: int = 1
    pipeline: int = 1
    virtual_pipeline: int | None = None
    expert: int = 1
    expert_tensor: int | None = None


def device() -> torch.device:
    """The device of this rank: `cuda:LOCAL_RANK`, the CPU where there is no GPU, or `meta` in a dry process."""
    if is_dry():
        return torch.device("meta")
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def use_device() -> None:
    """Have this thread's calls of CUDA go to the rank's GPU: a new thread's go to the first one."""
    if torch.cuda.is_available() and not is_dry():
        torch.cuda.set_device(device())


def rank() -> int:
    return dist.get_rank() if dist.is_initialized() else int(os.environ.get("RANK", "0"))


def world_size() -> int:
    return dist.get_world_size() if dist.is_initialized() else int(os.environ.get("WORLD_SIZE", "1"))


def is_rank_zero() -> bool:
    return rank() == 0


def print_rank_0(*values: object) -> None:
    if is_rank_zero():
        print(*values, flush=True)


def barrier() -> None:
    dist.barrier()


def initialize(layout: Layout, seed: int, timeout_minutes: float = 30.0, *, deterministic: bool = False) -> None:
    """Prepare the process, join the process group (NCCL on GPUs, gloo on CPUs) and build Megatron's groups.

    deterministic: products, sums and attention give the same bits each time, or raise RuntimeError where a GPU has no
    such form. It holds for the process.

    Without torchrun this is a world of one rank. The layout must divide the world; `settings` checks that first,
    so a mismatch here is an invariant broken."""
    prepare()
    if deterministic:
        _compute_deterministically()
    from megatron.core import parallel_state

    on_gpu = torch.cuda.is_available()
    use_device()
    if not on_gpu:
        torch.set_num_threads(int(os.environ.get("OMP_NUM_THREADS", threads_per_rank())))
    if not dist.is_initialized():
        backend = "nccl" if on_gpu else "gloo"
        timeout = datetime.timedelta(minutes=timeout_minutes)
        if "RANK" in os.environ:
            dist.init_process_group(backend, timeout=timeout)
        else:  # not under torchrun: a world of one needs no port
            dist.init_process_group(backend, store=dist.HashStore(), rank=0, world_size=1, timeout=timeout)
    parallel_state.initialize_model_parallel(
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual_pipeline,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.expert_tensor,
        create_gloo_process_groups=False,  # a second copy of every group, for checkpoint forms that are not used here
    )
    seed_ranks(seed)


def seed_ranks(seed: int) -> None:
    """All generators begin anew, as `initialize` leaves them. After it."""
    from megatron.core.tensor_parallel.random import model_parallel_cuda_manual_seed

    random.seed(seed)
    torch.manual_seed(seed)
    model_parallel_cuda_manual_seed(seed)


def _compute_deterministically() -> None:
    """Flash attention's gradient, and sums that scatter, add in any order on GPUs unless PyTorch is told otherwise."""
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # read when a cuBLAS handle is made
    torch.use_deterministic_algorithms(True)
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    torch.backends.cuda.matmul.allow_bf16_reduced_precision_reduction = False


def host_group(timeout_minutes: float = 30.0) -> dist.ProcessGroup | None:
    """A group of all ranks for a thread of its own, whose messages pass those of the ranks' main threads by (gloo).

    It is made once for as long as the ranks stay together: each has threads and connections. Collective. None where
    the rank is alone: then nothing is to be said."""
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return None
    if _HostGroup.made is None or _HostGroup.ranks is not dist.group.WORLD:
        timeout = datetime.timedelta(minutes=timeout_minutes)
        _HostGroup.made, _HostGroup.ranks = dist.new_group(backend="gloo", timeout=timeout), dist.group.WORLD
    return _HostGroup.made


class _HostGroup:
    made: dist.ProcessGroup | None = None
    ranks: dist.ProcessGroup | None = None  # all of them, of which it was made


def destroy(*, after_failure: bool = False) -> None:
    """Leave the process groups; a later `initialize` may choose another layout.

    after_failure: this rank may be alone with it, and NCCL would wait for the others: the process's end will do."""
    if dist.is_initialized() and not (after_failure and world_size() > 1 and torch.cuda.is_available()):
        from megatron.core import parallel_state

        _HostGroup.made = _HostGroup.ranks = None
        parallel_state.destroy_model_parallel()
        dist.destroy_process_group()
        gc.collect()  # the threads of a group end with the last module that holds it, and modules lie in circles


def ranks_of_node() -> range:
    """Those that run on this rank's node, as the launcher numbers them; where it does not say, all may."""
    if not {"LOCAL_RANK", "LOCAL_WORLD_SIZE"} <= os.environ.keys():
        return range(world_size())
    first = rank() - int(os.environ["LOCAL_RANK"])
    return range(first, first + int(os.environ["LOCAL_WORLD_SIZE"]))


def threads_per_rank() -> int:
    """Of the cores that this process may use; a job may have been given a few of its node's."""
    return max(1, cores() // int(os.environ.get("LOCAL_WORLD_SIZE", "1")))
