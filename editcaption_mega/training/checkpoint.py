"""Checkpoints: weights, optimizer, schedule, data position and random state, resumable at any layout.

`checkpoints/step_XXXXXXXX/` is one store (`conversion.store`): weights and optimizer moments as boxes of canonical
tensors, `state.json`, and `hf/` with config and tokenizer. It is written under another name and renamed when whole.

Each moment of the optimizer is a canonical tensor like its weight, so any layout reads it. A data-parallel rank writes
and reads the ranges of it that are its own, as boxes. `megatron_optimizer` says why this is not Megatron's own sharded
optimizer state.
"""

import json
import random
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.optimizer import MegatronOptimizer
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.conversion import WEIGHTS, Box, ParamShard, StoreReader, StoreWriter
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder, checkpoints
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.files import PARTIAL, rename_whole, write_atomically

from .megatron_optimizer import MASTER, MOMENTS, begin_state, finish_gathers, parameter_state
from .resume import STATE


def save_checkpoint(
    output: str | Path,
    state: dict[str, Any],
    param_shards: list[ParamShard],
    optimizer: MegatronOptimizer,
    *,
    side_files: SideFiles,
    metadata: dict[str, Any],
    keep: int,
) -> Path:
    """Write `state["step"]`'s checkpoint. Collective. Older ones beyond `keep` go only when the new one is whole.

    Raises OSError, alike on every rank, when it can't be written; nothing of it is left then."""
    final = checkpoint_folder(output, state["step"])
    partial = final.with_name(final.name + PARTIAL)
    try:
        with platform.together():
            if platform.is_rank_zero():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                side_files.write(partial / "hf")
                write_atomically(partial / STATE, json.dumps(state, indent=2) + "\n")
        _write_tensors(partial, param_shards, optimizer, metadata)
        with platform.together():
            if platform.is_rank_zero():
                _rename(partial, final)
    except Exception as error:
        if platform.is_rank_zero():
            shutil.rmtree(partial, ignore_errors=True)  # room for what goes on; the next start tries again
        if isinstance(error, OSError) and error.strerror:
            error.strerror += f", so the checkpoint of step {state['step']} was not written"
        raise
    if platform.is_rank_zero():
        for old in checkpoints(output)[:-keep] if keep else []:
            try:
                _remove(old)
            except OSError as error:
                print(f"{old.name} is no longer needed and could not be removed: {error}", flush=True)
    return final


def _write_tensors(
    partial: Path, param_shards: list[ParamShard], optimizer: MegatronOptimizer, metadata: dict[str, Any]
) -> None:
    """Weights, moments and random states, each by one of the ranks that have it. Collective."""
    finish_gathers(optimizer)
    writer = StoreWriter(partial, metadata={**metadata, "layout": _layout()})
    for name, shard, start, values in tensors_of_rank(param_shards, optimizer):
        writer.add_range(f"{name}{shard.rule.name}", shard.rule.shape, shard.box, start, values)
    for name, values in _random_states().items():
        key = f"random/{name}/{platform.rank()}"
        writer.add(key, tuple(values.shape), Box.whole(tuple(values.shape)), values)
    writer.finish()


def tensors_of_rank(
    param_shards: list[ParamShard], optimizer: MegatronOptimizer
) -> Iterator[tuple[str, ParamShard, int, Tensor]]:
    """(prefix of the name, shard, start, values [n]) of what this rank writes: elements from `start` of a shard's box.

    Weights lie on all data-parallel ranks, which take turns; of the optimizer's state a rank writes the ranges that are
    its own. So nothing is gathered, and nothing allocated on the device."""
    data_rank, data_size = parallel_state.get_data_parallel_rank(), parallel_state.get_data_parallel_world_size()
    expert_rank = parallel_state.get_expert_data_parallel_rank()
    expert_size = parallel_state.get_expert_data_parallel_world_size()
    written = [shard for shard in param_shards if shard.writer]
    for i, shard in enumerate(param_shards):  # all of them: an expert's ranks may differ in what else they write
        rank, size = (expert_rank, expert_size) if shard.is_expert else (data_rank, data_size)
        if shard.writer and rank == i % size:
            yield WEIGHTS, shard, 0, shard.parameter.data.flatten()
    for shard in written:
        state = parameter_state(optimizer, shard.parameter) if shard.parameter.requires_grad else None
        if state is None:
            continue
        # An fp32 run keeps no second copy of its weights.
        for name in MOMENTS + ((MASTER,) if shard.parameter.dtype != torch.float32 else ()):
            yield f"{name}/", shard, state.start, state.tensors[name].detach().flatten()


def _rename(partial: Path, final: Path) -> None:
    """Give the whole checkpoint its name; one that a run had saved at this step before, and not gone on from, goes."""
    if final.exists():
        _remove(final)
    rename_whole(partial, final)


def _remove(folder: Path) -> None:
    """Remove a checkpoint such that no half of it is ever taken for one: a killed job leaves what the next cleans."""
    removed = folder.with_name(f"{folder.name}.removed{PARTIAL}")
    shutil.rmtree(removed, ignore_errors=True)
    folder.rename(removed)
    shutil.rmtree(removed)


def load_optimizer(
    folder: Path, state: dict[str, Any], param_shards: list[ParamShard], optimizer: MegatronOptimizer
) -> None:
    """Moments, master weights and step counters of this rank's share of the optimizer, from any layout's checkpoint.

    Collective: all ranks raise alike."""
    with platform.together():
        _load_optimizer(StoreReader(folder), state["updates"], param_shards, optimizer)


def _load_optimizer(
    store: StoreReader, updates: int, param_shards: list[ParamShard], optimizer: MegatronOptimizer
) -> None:
    begin_state(optimizer, updates)
    for shard in param_shards:
        state = parameter_state(optimizer, shard.parameter)
        if state is None:
            continue
        with torch.no_grad():
            for name, tensor in state.tensors.items():
                key = f"{name}/{shard.rule.name}"
                if name == MASTER and key not in store.tensors:
                    # An fp32 run keeps no second copy: the weight is the master.
                    key = WEIGHTS + shard.rule.name
                values = store.read_range(key, shard.box, state.start, state.end)
                tensor.copy_(values.view(tensor.shape))


def load_random_state(folder: Path) -> bool:
    """Restore this rank's generators. False when the checkpoint is of another layout, which has other ranks.

    Collective: all ranks raise alike."""
    with platform.together():
        return _load_random_state(StoreReader(folder))


def _load_random_state(store: StoreReader) -> bool:
    if store.metadata.get("layout") != _layout():
        return False
    rank = platform.rank()
    torch.set_rng_state(store.read(f"random/torch/{rank}"))
    if torch.cuda.is_available():
        torch.cuda.set_rng_state(store.read(f"random/cuda/{rank}"))
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    tracker = get_cuda_rng_tracker()
    tracker.set_states({name: store.read(f"random/tracker-{name}/{rank}") for name in tracker.get_states()})
    python = bytes(store.read(f"random/python/{rank}").tolist())
    version, values, gauss = json.loads(python)
    random.setstate((version, tuple(values), gauss))
    return True


def _layout() -> list[int]:
    return [
        platform.world_size(),
        parallel_state.get_tensor_model_parallel_world_size(),
        parallel_state.get_pipeline_model_parallel_world_size(),
        parallel_state.get_virtual_pipeline_model_parallel_world_size() or 1,
        parallel_state.get_expert_model_parallel_world_size(),
        parallel_state.get_expert_tensor_parallel_world_size(),
        int(torch.cuda.is_available()),
    ]


def _random_states() -> dict[str, torch.Tensor]:
    from megatron.core.tensor_parallel.random import get_cuda_rng_tracker

    states = {"torch": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["cuda"] = torch.cuda.get_rng_state()
    states |= {f"tracker-{name}": value for name, value in get_cuda_rng_tracker().get_states().items()}
    states["python"] = torch.frombuffer(bytearray(json.dumps(random.getstate()).encode()), dtype=torch.uint8)
    return states
