"""Checkpoint, or another folder, -> folder, as a plan of output files."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editcaption_mega.data.text.side_files import CONFIG, SINGLE_WEIGHTS, WEIGHT_INDEX, SideFiles
from editcaption_mega.files import write_atomically
from editcaption_mega.model import Architecture

from .hugging_face import FolderReader, with_dtype
from .jobs import (
    Compared,
    ComparedBytes,
    ComparedRule,
    Conversion,
    OutputFile,
    Read,
    canonical_parts,
    drop_cached,
    file_identity,
    folder_parts,
    level_files,
    piece_names,
    plan_of,
    values_of,
)
from .manifest import MANIFEST, StoredFile
from .rules import Rule, rules_for, unique_rules
from .store import WEIGHTS, StoreReader, check_same_model, read_store
from .tensor_file import TensorForm, bytes_of_blocks


@dataclass(frozen=True)
class FolderSource:
    """Weights of which a Hugging Face folder is made."""

    conversion: str  # its name in plans
    side_files: SideFiles
    architecture: Architecture
    in_out: bool  # how the folder stores experts, see `rules_for`
    dtype: Callable[[Rule], torch.dtype]
    read: Read
    identity: Callable[[], dict[str, Any]]  # changes when the weights do


def store_source(store: StoreReader, prefixes: tuple[str, ...] = (WEIGHTS,)) -> FolderSource:
    """A checkpoint. Raises ValueError for one that is not of the model beside it."""
    side_files = SideFiles.read(store.folder / "hf").require(CONFIG, "the model's configuration")
    architecture = Architecture.from_config(side_files.json(CONFIG), where=str(store.folder / "hf" / CONFIG))
    check_same_model(store, architecture)
    return FolderSource(
        "megatron_to_hf", side_files, architecture, bool(store.metadata.get("experts_in_out", False)),
        lambda rule: store.dtype(WEIGHTS + rule.name), read_store(store, prefixes),
        lambda: {"manifest": hashlib.sha256((store.folder / MANIFEST).read_bytes()).hexdigest()},
    )  # fmt: skip


def folder_source(folder: Path) -> FolderSource:
    """A Hugging Face folder. Raises ValueError for one that is not whole."""
    reader = FolderReader(folder)
    return FolderSource(
        "hf_to_hf", SideFiles.read(folder), reader.architecture, reader.experts_in_out, reader.dtype, reader.view,
        lambda: {"files": {path.name: file_identity(path) for path in reader.weight_files}},
    )  # fmt: skip


def to_folder(source: FolderSource, dtype: torch.dtype | None, max_file_bytes: int) -> Conversion:
    """dtype: of all weights; None: as the source has them."""
    side_files, in_out, read = source.side_files, source.in_out, source.read
    rules = unique_rules(rules_for(source.architecture, experts_in_out=in_out))
    pieces = {name: (rule, piece) for rule in rules for name, piece in piece_names(rule).items()}
    forms = {name: TensorForm(dtype or source.dtype(rule), piece.hf_shape) for name, (rule, piece) in pieces.items()}
    shares = level_files(forms, max_file_bytes)
    names = [f"model-{number:05d}-of-{len(shares):05d}.safetensors" for number in range(1, len(shares) + 1)]
    if len(shares) == 1:
        names = [SINGLE_WEIGHTS]
    files = [OutputFile(name, share, {"format": "pt"}) for name, share in zip(names, shares, strict=True)]

    plan = plan_of(source.conversion, files, source.identity(), dtype)
    side_files = with_dtype(side_files, values_of(files))

    def parts(name: str) -> Iterator[Tensor]:
        return folder_parts(pieces[name][0], name, forms[name], read)

    def finish(content: Path, records: dict[str, StoredFile]) -> None:
        if len(files) > 1:
            write_atomically(content / WEIGHT_INDEX, _index(files))
        side_files.write(content)

    def compare(content: Path) -> list[Compared]:
        drop_cached(content.glob("*.safetensors"))
        written = FolderReader(content)
        if written.experts_in_out != in_out:
            raise ValueError(f"{content} stores its experts in another order than its source asks for")
        beside = [ComparedBytes(content / name, text) for name, text in side_files.contents.items()]
        if {path.name for path in written.weight_files} == set(names) and len(files) > 1:
            beside.append(ComparedBytes(content / WEIGHT_INDEX, _index(files)))
        compared = [
            ComparedRule(rule, forms[rule.pieces[0].name].dtype, written.view, read, written.files_of(rule))
            for rule in rules
        ]
        return [*beside, *compared]

    return Conversion(plan, files, source.identity, parts, finish, compare, digest=False)


def _index(files: Iterable[OutputFile]) -> bytes:
    weight_map = {name: file.name for file in files for name in file.forms}
    total = sum(form.nbytes for file in files for form in file.forms.values())
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    return (json.dumps(index, indent=2) + "\n").encode()


def export_host_bytes(architecture: Architecture, *, item_size: int = 2) -> int:
    """The most bytes of tensors that a process of `megatron_to_hf` makes: a part in its canonical form, in Hugging
    Face's, and the blocks of the file. A part has one entry of a tensor's first axis at the least."""
    rules = unique_rules(rules_for(architecture))
    largest = max(box.size * item_size for rule in rules for box in canonical_parts(rule, item_size))
    return 2 * largest + bytes_of_blocks(largest)
