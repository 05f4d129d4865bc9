"""The generators of a rank as tensors, for its checkpoints."""

import json
import random

import torch
from megatron.core import parallel_state

from editcaption_mega import platform
from editcaption_mega.conversion import StoreReader


def rank_layout() -> list[int]:
    """What must be the same for this rank to go on with the generators of its number."""
    return [
        platform.world_size(),
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
        parallel_state.get_expert_model_parallel_world_size(),
        parallel_state.get_expert_tensor_parallel_world_size(),
        int(torch.cuda.is_available()),
    ]


def random_states() -> dict[str, torch.Tensor]:
    """The generators' states [bytes] uint8 on the host, by their keys in a checkpoint."""
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    states |= {f"tracker-{name}": value for name, value in get_cuda_rng_tracker().get_states().items()}
    states["python"] = torch.frombuffer(bytearray(json.dumps(random.getstate()).encode()), dtype=torch.uint8)
    return {_key(name): value for name, value in states.items()}


def restore_random_states(store: StoreReader) -> bool:
    """Give this rank's generators the states of a checkpoint. False when it is of another layout, which has other
    ranks."""
    if store.metadata.get("layout") != rank_layout():
        return False
    torch.set_rng_state(store.read(_key("torch")))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(store.read(_key("cuda")))
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    tracker = get_cuda_rng_tracker()
    tracker.set_states({name: store.read(_key(f"tracker-{name}")) for name in tracker.get_states()})
    version, values, gauss = json.loads(bytes(store.read(_key("python")).tolist()))
    random.setstate((version, tuple(values), gauss))
    return True


def _key(name: str) -> str:
    return f"random/{name}/{platform.rank()}"
