"""The two conversions as whole jobs: folder -> checkpoint, checkpoint -> folder."""

import shutil
from collections.abc import Iterable
from pathlib import Path

import torch
import torch.distributed as dist

from editcaption_mega import platform
from editcaption_mega.data.text.side_files import CONFIG, SideFiles
from editcaption_mega.files import rename_whole
from editcaption_mega.model import Architecture
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import SettingsError

from .checkpoint_folders import find_checkpoint
from .hugging_face import FOLDER_FILE_BYTES, FolderReader, hf_tensors, with_dtype, write_folder
from .rules import Box, Rule, rules_for, unique_rules
from .store import WEIGHTS, StoreWriter
from .verify import check_same_model, verify_checkpoint


def refuse_existing(output: Path) -> None:
    """Raise SettingsError when `output` holds anything: conversions never write over something."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        raise SettingsError(f"{output} already holds something: choose another folder, nothing was written")


def hf_to_megatron(folder: Path, output: Path, *, progress: Progress = no_progress) -> None:
    """Write the folder's weights as a store of whole canonical tensors, with `hf/` beside them.

    Under torchrun, rank r writes every world-size-th tensor. Memory: one tensor and one output file per rank."""
    refuse_existing(output)
    side_files = SideFiles.read(folder)
    reader = FolderReader(folder)
    if platform.world_size() > 1 and not dist.is_initialized():
        platform.initialize(platform.Layout(), seed=0)
    partial = output.with_name(output.name + ".partial")
    with platform.together():
        if platform.is_rank_zero():
            shutil.rmtree(partial, ignore_errors=True)
            side_files.write(partial / "hf")
    writer = StoreWriter(partial, metadata={"experts_in_out": reader.experts_in_out})
    mine = unique_rules(reader.rules)[platform.rank() :: platform.world_size()]
    with platform.together():
        for rule in progress(mine, len(mine), "tensors"):
            writer.add(WEIGHTS + rule.name, rule.shape, Box.whole(rule.shape), reader.read(rule))
    writer.finish()
    with platform.together():
        if platform.is_rank_zero():
            if output.is_dir():
                output.rmdir()
            rename_whole(partial, output)
    if dist.is_initialized():
        platform.destroy()


def megatron_to_hf(
    checkpoint: Path,
    output: Path,
    *,
    max_file_bytes: int = FOLDER_FILE_BYTES,
    progress: Progress = no_progress,
) -> None:
    """Write a folder that transformers loads, in the layout and with the config of the folder that training began
    with. Memory: one tensor and one output file, whatever the model."""
    if not platform.is_rank_zero():  # under torchrun: the work of one process
        return
    refuse_existing(output)
    folder = find_checkpoint(checkpoint)
    store = verify_checkpoint(folder, tensors=WEIGHTS)
    side_files = SideFiles.read(folder / "hf").require(CONFIG, "the model's configuration")
    architecture = Architecture.from_config(side_files.json(CONFIG), where=str(folder / "hf" / CONFIG))
    check_same_model(store, architecture)
    partial = output.with_name(output.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    in_out = bool(store.metadata.get("experts_in_out", False))
    count = sum(1 for _ in hf_names(architecture, in_out))

    def read(rule: Rule) -> torch.Tensor:
        return store.read(WEIGHTS + rule.name)

    tensors = hf_tensors(architecture, read, experts_in_out=in_out)
    values = write_folder(progress(tensors, count, "tensors"), partial, max_file_bytes=max_file_bytes)
    with_dtype(side_files, values).write(partial)
    if output.is_dir():
        output.rmdir()
    rename_whole(partial, output)


def export_host_bytes(
    architecture: Architecture, *, item_size: int = 2, max_file_bytes: int = FOLDER_FILE_BYTES
) -> int:
    """The most bytes of tensors that `megatron_to_hf` holds: one output file's, and the tensor that comes next in its
    canonical form and in Hugging Face's."""
    sizes = [rule.size * item_size for rule in unique_rules(rules_for(architecture))]
    return min(max_file_bytes, sum(sizes)) + 2 * max(sizes)


def hf_names(architecture: Architecture, experts_in_out: bool) -> Iterable[str]:
    """Names of the Hugging Face tensors of a model."""
    rules = unique_rules(rules_for(architecture, experts_in_out=experts_in_out))
    return dict.fromkeys(piece.name for rule in rules for piece in rule.pieces)
