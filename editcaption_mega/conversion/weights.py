"""Weights into the model chunks of this rank, from either kind of source."""

import hashlib
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.data.text.side_files import is_peft_folder, named_base
from editcaption_mega.model import Architecture

from .checkpoint_folders import find_checkpoint
from .hugging_face import FolderReader
from .jobs import Read
from .local_copies import LocalCopies
from .param_shards import fill, local_param_shards, owned, send
from .peft_folder import base_weights_of
from .rules import Box, Rule, rules_for
from .store import WEIGHTS, StoreReader, check_same_model
from .trained_adapter import TrainedAdapter, check_base_weights, has_adapters, merged
from .verify import verify_checkpoint, verify_side_files
from .weights_digest import weights_digest


@dataclass(frozen=True)
class WeightSource:
    """Where weights come from: a Hugging Face folder, or a checkpoint with its own small copy of one; with adapters,
    which are added to them."""

    folder: Path  # config.json, tokenizer, image processor; the weights too when there is no checkpoint
    checkpoint: Path | None = None
    adapter: TrainedAdapter | None = None

    @classmethod
    def of(cls, path: str | Path, *, verify: bool = True) -> "WeightSource":
        """A Megatron checkpoint, a run folder (its newest checkpoint), a Hugging Face folder, or adapters as a run, a
        checkpoint or a PEFT folder, which say where the weights are that they are on. ValueError else, and with
        `verify` for a checkpoint whose config or tokenizer is not what was written."""
        path = Path(path)
        if is_peft_folder(path):
            return cls._of_adapters(path, verify)
        if (path / "config.json").is_file():
            return cls(path)
        checkpoint = find_checkpoint(path)
        if has_adapters(checkpoint):
            return cls._of_adapters(checkpoint, verify)
        if verify:
            verify_side_files(checkpoint)
        return cls(checkpoint / "hf", checkpoint)

    @classmethod
    def _of_adapters(cls, path: Path, verify: bool) -> "WeightSource":
        if is_peft_folder(path):
            weights = cls._of_weights(named_base(path), path, verify)
            # First: of another model nothing else fits either, and this says why.
            check_base_weights(path, "a model", base_weights_of(path), weights.checkpoint or weights.folder)
            adapter = TrainedAdapter.open(path, Architecture.from_folder(weights.folder))
        else:
            if verify:
                verify_checkpoint(path, tensors=WEIGHTS)
            adapter = TrainedAdapter.open(path)
            weights = cls._of_weights(Path(adapter.base), path, verify)
            adapter.check_base(weights.checkpoint or weights.folder)
        return replace(weights, adapter=adapter)

    @classmethod
    def _of_weights(cls, base: Path, path: Path, verify: bool) -> "WeightSource":
        if not base.is_dir():
            raise ValueError(f"the adapters in {path} are on {base}, which is not there: put it there")
        source = cls.of(base, verify=verify)
        if source.adapter is not None:
            raise ValueError(
                f"the adapters in {path} are on those in {base}: put those into their weights first (megatron_to_hf)"
            )
        return source

    def experts_in_out(self) -> bool:
        """Whether the experts began in a folder that stores them as [expert, in, out]; an export does the same.

        Raises ValueError for weights that are not those of the folder's config.json."""
        if self.checkpoint:
            return bool(StoreReader(self.checkpoint).metadata.get("experts_in_out", False))
        return FolderReader(self.folder).experts_in_out

    def digest(self) -> str:
        """Changes when the weights do."""
        digest = weights_digest(self.checkpoint or self.folder)
        if self.adapter is None:
            return digest
        return hashlib.sha256(f"{digest} {self.adapter.digest()}".encode()).hexdigest()[:32]


def load_weights(
    chunks: list[torch.nn.Module],
    architecture: Architecture,
    folder: str | Path,
    checkpoint: str | Path | None = None,
    *,
    adapter: TrainedAdapter | None = None,
    verify: bool = True,
    local: LocalCopies | None = None,
) -> None:
    """Fill every parameter from `checkpoint` (a store) or, without one, from the Hugging Face folder. Collective.

    Each weight is read by its owner among the ranks that hold the same box, which sends it to the others; first, with
    `verify`, each rank reads a share of the checkpoint's files for their checksums. Rank 0 alone compares all tensors
    of a Hugging Face folder with its config.json. adapter: added to the weights. local: copies of the checkpoint's
    files on the nodes.
    Raises ValueError, alike on every rank, when the source is of another model or damaged."""
    param_shards = local_param_shards(chunks, rules_for(architecture))
    if checkpoint and verify:
        verify_checkpoint(checkpoint, tensors=WEIGHTS, local=local)
    in_out = None if checkpoint else platform.from_rank_zero(lambda: FolderReader(folder, architecture).experts_in_out)
    with platform.together():
        if checkpoint:
            store = StoreReader(checkpoint, local)
            check_same_model(store, architecture)
            read: Read = partial(_from_store, store)
        else:
            read = FolderReader(folder, architecture, experts_in_out=in_out).view
        if adapter is not None:
            read = merged(read, adapter)
        for shard in owned(param_shards):
            fill(shard, read(shard.rule, shard.box))
    for shard in param_shards:
        send(shard)


def _from_store(store: StoreReader, rule: Rule, box: Box) -> Tensor:
    return store.view(WEIGHTS + rule.name, box)
