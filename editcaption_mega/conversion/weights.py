"""Weights into the model chunks of this rank, from either kind of source."""

from dataclasses import dataclass
from pathlib import Path

import torch

from editcaption_mega import platform
from editcaption_mega.model import Architecture

from .checkpoint_folders import find_checkpoint
from .hugging_face import FolderReader
from .local_copies import LocalCopies
from .param_shards import fill, local_param_shards, owned, send
from .rules import rules_for
from .store import WEIGHTS, StoreReader
from .verify import check_same_model, verify_checkpoint, verify_side_files
from .weights_digest import weights_digest


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from: a Hugging Face folder, or a checkpoint with its own small copy of one."""

    folder: Path  # config.json, tokenizer, image processor; the weights too when there is no checkpoint
    checkpoint: Path | None = None

    @classmethod
    def of(cls, path: str | Path, *, verify: bool = True) -> "WeightSource":
        """A Megatron checkpoint, a run folder (its newest checkpoint) or a Hugging Face folder. ValueError else, and
        with `verify` for a checkpoint whose config or tokenizer is not what was written."""
        path = Path(path)
        if (path / "config.json").is_file():
            return cls(path)
        checkpoint = find_checkpoint(path)
        if verify:
            verify_side_files(checkpoint)
        return cls(checkpoint / "hf", checkpoint)

    def experts_in_out(self) -> bool:
        """Whether the experts began in a folder that stores them as [expert, in, out]; an export does the same.

        Raises ValueError for weights that are not those of the folder's config.json."""
        if self.checkpoint:
            return bool(StoreReader(self.checkpoint).metadata.get("experts_in_out", False))
        return FolderReader(self.folder).experts_in_out

    def digest(self) -> str:
        """Changes when the weights do."""
        return weights_digest(self.checkpoint or self.folder)


def load_weights(
    chunks: list[torch.nn.Module],
    architecture: Architecture,
    folder: str | Path,
    checkpoint: str | Path | None = None,
    *,
    verify: bool = True,
    local: LocalCopies | None = None,
) -> None:
    """Fill every parameter from `checkpoint` (a store) or, without one, from the Hugging Face folder. Collective.

    Each weight is read by its owner among the ranks that hold the same box, which sends it to the others; first, with
    `verify`, each rank reads a share of the checkpoint's files for their checksums. Rank 0 alone compares all tensors
    of a Hugging Face folder with its config.json. local: copies of the checkpoint's files on the nodes.
    Raises ValueError, alike on every rank, when the source is of another model or damaged."""
    param_shards = local_param_shards(chunks, rules_for(architecture))
    if checkpoint and verify:
        verify_checkpoint(checkpoint, tensors=WEIGHTS, local=local)
    in_out = None if checkpoint else platform.from_rank_zero(lambda: FolderReader(folder, architecture).experts_in_out)
    with platform.together():
        if checkpoint:
            store = StoreReader(checkpoint, local)
            check_same_model(store, architecture)
            for shard in owned(param_shards):
                fill(shard, store.view(WEIGHTS + shard.rule.name, shard.box))
        else:
            reader = FolderReader(folder, architecture, experts_in_out=in_out)
            for shard in owned(param_shards):
                fill(shard, reader.view(shard.rule, shard.box))
    for shard in param_shards:
        send(shard)
