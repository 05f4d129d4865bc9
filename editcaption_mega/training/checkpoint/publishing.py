"""Checkpoints are written by all ranks under another name, and published by rank 0 with one rename."""

import json
import shutil
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from megatron.core.optimizer import MegatronOptimizer

from editcaption_mega import platform
from editcaption_mega.conversion import ParamShard, StoreWriter
from editcaption_mega.conversion.checkpoint_folders import checkpoint_folder, checkpoints, is_read, step_of
from editcaption_mega.data.text.side_files import SideFiles
from editcaption_mega.files import PARTIAL, rename_whole, write_atomically

from ..megatron_optimizer import finish_gathers
from ..resume import BEST, STATE
from .contents import StoredRange, stored_ranges
from .handover import Trade
from .random_state import rank_layout


@dataclass(frozen=True)
class CheckpointFolder:
    """Where the checkpoint of a step goes, and what it has beside tensors.

    may_publish: raises where another job took the run folder over meanwhile. On rank 0."""

    output: Path
    state: dict[str, Any]  # of its state.json
    side_files: SideFiles
    metadata: dict[str, Any]
    may_publish: Callable[[], None] = lambda: None

    @property
    def step(self) -> int:
        step: int = self.state["step"]
        return step

    @property
    def best(self) -> dict[str, Any] | None:
        """The best checkpoint of the run, this one included: metric, step and value; None: none is kept as such."""
        evaluation = self.state.get("evaluation") or {}
        checkpoint: dict[str, Any] | None = evaluation.get("checkpoint")
        return {"metric": evaluation["metric"], **checkpoint} if checkpoint else None

    @property
    def final(self) -> Path:
        return checkpoint_folder(self.output, self.step)

    @property
    def partial(self) -> Path:
        return self.final.with_name(self.final.name + PARTIAL)


def save_checkpoint(folder: CheckpointFolder, param_shards: list[ParamShard], optimizer: MegatronOptimizer) -> Path:
    """Write the state of this moment; returns when it is published. Collective. Raises as `write_checkpoint`."""
    finish_gathers(optimizer)
    write_checkpoint(folder, stored_ranges(param_shards, optimizer), group=platform.host_group())
    return folder.final


def write_checkpoint(
    folder: CheckpointFolder, ranges: Iterable[StoredRange], *, group: platform.Group, copies: bool = True
) -> dict[str, str]:
    """Write and publish a checkpoint, of which these are this rank's ranges -> sha256 of each file that it has written,
    by name. Collective. group: `platform.host_group()`. copies: see `StoreWriter`.

    Raises OSError, alike on every rank, when it can't be written; nothing of it is left then."""
    partial = folder.partial
    try:
        with platform.together(group):
            if platform.is_rank_zero():
                shutil.rmtree(partial, ignore_errors=True)
                partial.mkdir(parents=True)
                folder.side_files.write(partial / "hf")
                write_atomically(partial / STATE, json.dumps(folder.state, indent=2) + "\n")
        trade = Trade(list(ranges), group)
        metadata = {**folder.metadata, "layout": rank_layout(), "takers": trade.takers}
        writer = StoreWriter(partial, metadata=metadata, group=group, copies=copies)
        for stored in trade.ranges:
            writer.add_range(*stored)
        trade.finish()
        writer.finish()
        with platform.together(group):
            if platform.is_rank_zero():
                folder.may_publish()
                _rename(partial, folder.final)
        return writer.digests
    except Exception as error:
        if platform.is_rank_zero():
            shutil.rmtree(partial, ignore_errors=True)  # room for what goes on; the next start tries again
        if isinstance(error, OSError) and error.strerror:
            error.strerror += f", so the checkpoint of step {folder.step} was not written"
        raise


def remove_old(output: str | Path, *, keep: int, keep_every: int, best: int | None = None) -> list[str]:
    """Remove all but the newest `keep` checkpoints (0: none is removed), those of every `keep_every` steps, that of the
    step `best`, and what is being exported -> a line for each that is no longer needed and stays. On rank 0, when a
    newer one is published."""
    lines = []
    for old in checkpoints(output)[:-keep] if keep else []:
        if step_of(old.name) == best or keep_every and step_of(old.name) % keep_every == 0:
            continue
        try:
            if is_read(old):
                lines.append(f"{old.name} is no longer needed and stays for now: it is being exported")
                continue
            _remove(old)
        except OSError as error:
            lines.append(f"{old.name} is no longer needed and could not be removed: {error}")
    return lines


def write_best(output: Path, best: dict[str, Any] | None) -> None:
    """Say in best.json which checkpoint is the best; no file where none is. Raises OSError."""
    path = output / BEST
    if best is None:
        path.unlink(missing_ok=True)
        return
    folder = checkpoint_folder(output, best["step"]).relative_to(output)
    write_atomically(path, json.dumps({**best, "checkpoint": str(folder)}, indent=2) + "\n")


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
