"""Weights into the model chunks of this rank, and out of them, from either kind of source."""

from pathlib import Path

import torch

from editcaption_mega.model import Architecture

from .hugging_face import FolderReader
from .rules import rules_for
from .shards import LocalShard, local_shards
from .store import MANIFEST, StoreReader

WEIGHTS = "weights/"  # prefix of weight tensors in a store; optimizer state has others


def load_weights(
    chunks: list[torch.nn.Module], architecture: Architecture, folder: str | Path, checkpoint: str | Path | None = None
) -> None:
    """Fill every parameter from `checkpoint` (a store) or, without one, from the Hugging Face folder.

    Reads only the boxes of this rank. Raises ValueError when the source is of another model."""
    shards = local_shards(chunks, rules_for(architecture))
    if checkpoint:
        store = StoreReader(checkpoint)
        check_same_model(store, architecture)
        for shard in shards:
            _fill(shard, store.read(WEIGHTS + shard.rule.name, shard.box))
    else:
        reader = FolderReader(folder, architecture)
        for shard in shards:
            _fill(shard, reader.read(shard.rule, shard.box))


def check_same_model(store: StoreReader, architecture: Architecture) -> None:
    """Raise ValueError when the store's weights are not those of `architecture`, naming the first difference."""
    for rule in rules_for(architecture).values():
        key = WEIGHTS + rule.name
        if key not in store.tensors:
            raise ValueError(f"{store.folder} is a checkpoint of another model: it lacks {rule.name}")
        if store.shape(key) != rule.shape:
            raise ValueError(
                f"{store.folder} is a checkpoint of another model: {rule.name} has shape {list(store.shape(key))}, "
                f"config.json asks for {list(rule.shape)}"
            )


def find_checkpoint(path: str | Path) -> Path:
    """A checkpoint folder, or the newest complete one of a run folder. Raises ValueError when there is none."""
    path = Path(path)
    if (path / MANIFEST).is_file():
        return path
    steps = sorted(found.parent for found in (path / "checkpoints").glob(f"step_*/{MANIFEST}"))
    if not steps:
        raise ValueError(f"{path} is neither a checkpoint (no {MANIFEST}) nor a run folder with a complete one")
    return steps[-1]


def _fill(shard: LocalShard, values: torch.Tensor) -> None:
    with torch.no_grad():
        shard.view(shard.parameter.data).copy_(values)
