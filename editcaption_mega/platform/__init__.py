"""Device, random state and process groups: the only room where a CPU differs from CUDA.

Importing it changes nothing. Programs call `prepare` once, or `initialize`, which does; where there is no CUDA, models
refuse to be built before that. Nothing else needs it: kernels, data, rubric and objectives run without.
"""

from .ahead import SideStream, made_ahead, wait_for_copies
from .broken_library import transformer_engine_error
from .figures import peak_flops, peak_memory, what_computes
from .host_copies import HostBuffer, staged_on_host, wait_for_staged
from .machine import prepare, require_prepared
from .process import (
    Layout,
    barrier,
    destroy,
    device,
    host_group,
    initialize,
    is_rank_zero,
    print_rank_0,
    rank,
    ranks_of_node,
    seed_ranks,
    threads_per_rank,
    use_device,
    world_size,
)
from .random_numbers import kept_random_states, seed_host_generator
from .together import (
    Group,
    each_together,
    from_rank_zero,
    gather,
    gather_on_rank_zero,
    gather_shares,
    raise_together,
    share,
    together,
)

__all__ = [
    "Group",
    "HostBuffer",
    "Layout",
    "SideStream",
    "barrier",
    "destroy",
    "device",
    "each_together",
    "from_rank_zero",
    "gather",
    "gather_on_rank_zero",
    "gather_shares",
    "host_group",
    "initialize",
    "is_rank_zero",
    "kept_random_states",
    "made_ahead",
    "peak_flops",
    "peak_memory",
    "prepare",
    "print_rank_0",
    "raise_together",
    "rank",
    "ranks_of_node",
    "require_prepared",
    "share",
    "staged_on_host",
    "threads_per_rank",
    "together",
    "transformer_engine_error",
    "use_device",
    "wait_for_staged",
    "what_computes",
    "wait_for_copies",
    "world_size",
    "seed_host_generator",
    "seed_ranks",
]
