"""The two conversions as whole jobs: folder -> checkpoint, checkpoint -> folder.

Each is a plan of output files, which processes (or, under torchrun, ranks) share; one that was killed goes on with the
files that are missing (`partial_folder.py`)."""

import hashlib
import json
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.data.text.side_files import CONFIG, SINGLE_WEIGHTS, WEIGHT_INDEX, SideFiles, is_peft_folder
from editcaption_mega.files import write_atomically
from editcaption_mega.model import Architecture
from editcaption_mega.progress import Progress, no_progress
from editcaption_mega.settings import SettingsError, before_work

from .checkpoint_folders import find_checkpoint, held_checkpoint
from .fp8 import without_quantization
from .hugging_face import FOLDER_FILE_BYTES, FolderReader, architecture_and_fp8, with_dtype
from .jobs import (
    Compared,
    ComparedBytes,
    ComparedFile,
    ComparedRule,
    Conversion,
    OutputFile,
    PartialFolder,
    Read,
    canonical_parts,
    digest_of,
    drop_cached,
    file_identity,
    folder_parts,
    joined_ranks,
    level_files,
    piece_names,
    plan_of,
    values_of,
)
from .manifest import MANIFEST, StoredBox, StoredFile, StoredTensor
from .peft_folder import write_peft_folder
from .rules import Box, Rule, rules_for, unique_rules
from .store import MASTERS, WEIGHTS, StoreReader, write_manifest
from .tensor_file import TensorForm, bytes_of_blocks
from .trained_adapter import TrainedAdapter, base_folder, merged
from .verify import check_same_model, verify_checkpoint

STORE_FILE_BYTES = 1 << 30  # of a converted checkpoint: what a killed process makes again at the most


def refuse_existing(output: Path) -> None:
    """Raise SettingsError when `output` holds anything, as conversions never write over something, or where no folder
    can get its name."""
    if output.exists() and (not output.is_dir() or any(output.iterdir())):
        PartialFolder.of(output).remove_published()
        raise SettingsError(f"{output} already holds something: choose another folder, nothing was written")
    PartialFolder.of(output).refuse_unusable()


def source_architecture(folder: Path) -> Architecture:
    """That of a folder which `hf_to_megatron` can convert: the weights may be FP8. Raises ValueError."""
    return architecture_and_fp8(folder)[0]


def hf_to_megatron(
    folder: Path,
    output: Path,
    *,
    dtype: torch.dtype | None = None,
    workers: int = 1,
    verify: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write the folder's weights as a store of whole canonical tensors, with `hf/` beside them.

    dtype: of all weights (None: as the folder has them, FP8 as bf16). verify: compare what was written with the folder
    before it is published; an output that exists is only compared. workers: processes; under torchrun the ranks share
    the files beside. progress: of bytes. Memory of a process: a few parts of a tensor, of 8 MiB.
    Raises ValueError for a folder that is not whole and for an output that differs, OSError."""
    if not (verify and (output / MANIFEST).is_file()):
        refuse_existing(output)
    with joined_ranks():
        _to_store(folder, dtype).run(output, workers=workers, verify=verify, progress=progress)


def megatron_to_hf(
    checkpoint: Path,
    output: Path,
    *,
    max_file_bytes: int = FOLDER_FILE_BYTES,
    dtype: torch.dtype | None = None,
    workers: int = 1,
    verify: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write a folder that transformers loads, in the layout and with the config of the folder that training began
    with. dtype: of all weights (None: as the checkpoint has them); fp32 is taken from the optimizer's master weights
    where the checkpoint has them. Its run may go on meanwhile. The other parameters as in
    `hf_to_megatron`. Raises ValueError, OSError."""
    if not (verify and (output / CONFIG).is_file()):
        refuse_existing(output)
    prefixes = (MASTERS, WEIGHTS) if dtype == torch.float32 else (WEIGHTS,)
    with joined_ranks():
        folder = platform.from_rank_zero(lambda: find_checkpoint(checkpoint))
        with held_checkpoint(folder):
            store = verify_checkpoint(folder, tensors=prefixes, progress=progress)
            conversion = to_folder(store_source(store, prefixes), dtype, max_file_bytes)
            conversion.run(output, workers=workers, verify=verify, progress=progress)


def export_adapter(adapter: Path, output: Path, *, base: Path | None = None, dtype: torch.dtype | None = None) -> None:
    """Write adapters, of a run, checkpoint or PEFT folder, as a PEFT folder. base: the weights that they are on, which
    adapter_config.json names; None: as the run or the PEFT folder has them. dtype: of its tensors; None: as they are.
    Raises ValueError, OSError."""
    refuse_existing(output)
    opened = _open_adapter(adapter, base)
    values = {name: value.to(dtype or value.dtype) for name, value in opened.values.items()}
    write_peft_folder(output, opened.choice, values, str(base or opened.base), opened.base_weights)


def merge_adapter(
    adapter: Path,
    output: Path,
    *,
    base: Path | None = None,
    max_file_bytes: int = FOLDER_FILE_BYTES,
    dtype: torch.dtype | None = None,
    workers: int = 1,
    verify: bool = False,
    progress: Progress = no_progress,
) -> None:
    """Write weights with adapters in them as a Hugging Face folder. base: folder, checkpoint or run of the weights;
    None: as the run of the adapters or their PEFT folder has them. The other parameters as in `megatron_to_hf`. Raises
    ValueError, for weights too that the adapters were not trained on, and OSError."""
    if not (verify and (output / CONFIG).is_file()):
        refuse_existing(output)
    with joined_ranks():
        opened = platform.from_rank_zero(lambda: _open_adapter(adapter, base))
        with before_work():
            if base is None and not Path(opened.base).is_dir():
                raise ValueError(
                    f"the adapters in {opened.path} are on {opened.base}, which is not there: name its folder with "
                    "--base"
                )
            where = _weights_at(base or Path(opened.base))
            platform.from_rank_zero(lambda: opened.check_base(where))
        weights = folder_source(where) if (where / CONFIG).is_file() else store_source(StoreReader(where))

        def identity() -> dict[str, Any]:
            return {**weights.identity(), "adapter": opened.digest()}

        source = replace(weights, conversion="merge_adapter", read=merged(weights.read, opened), identity=identity)
        to_folder(source, dtype, max_file_bytes).run(output, workers=workers, verify=verify, progress=progress)


def _weights_at(base: Path) -> Path:
    """A Hugging Face folder or a checkpoint."""
    return base if (base / CONFIG).is_file() else find_checkpoint(base)


def _open_adapter(adapter: Path, base: Path | None) -> TrainedAdapter:
    if not is_peft_folder(adapter):
        verify_checkpoint(find_checkpoint(adapter), tensors=WEIGHTS)
    elif base is None:
        base = base_folder(adapter)
    where = None if base is None else _weights_at(base)
    architecture = None
    if where is not None:
        architecture = Architecture.from_folder(where if (where / CONFIG).is_file() else where / "hf")
    with before_work():
        opened = TrainedAdapter.open(adapter, architecture)
        if where is not None:
            opened.check_base(where)
    return opened


def export_host_bytes(architecture: Architecture, *, item_size: int = 2) -> int:
    """The most bytes of tensors that a process of `megatron_to_hf` makes: a part in its canonical form, in Hugging
    Face's, and the blocks of the file. A part has one entry of a tensor's first axis at the least."""
    rules = unique_rules(rules_for(architecture))
    largest = max(box.size * item_size for rule in rules for box in canonical_parts(rule, item_size))
    return 2 * largest + bytes_of_blocks(largest)


# ---- folder -> checkpoint --------------------------------------------------------------------------------------------


def _to_store(folder: Path, dtype: torch.dtype | None) -> Conversion:
    side_files = SideFiles.read(folder)
    reader = FolderReader(folder, fp8_dtype=dtype or torch.bfloat16)
    config = side_files.json(CONFIG)
    rules = {_inside(rule): rule for rule in unique_rules(reader.rules)}
    forms = {inside: TensorForm(dtype or reader.dtype(rule), rule.shape) for inside, rule in rules.items()}
    files = [
        OutputFile(f"weights-{number:05d}.safetensors", part)
        for number, part in enumerate(level_files(forms, STORE_FILE_BYTES))
    ]

    def source() -> dict[str, Any]:
        weights = {path.name: file_identity(path) for path in reader.weight_files}
        return {"files": weights, "beside": digest_of(SideFiles.read(folder).contents)}

    plan = plan_of("hf_to_megatron", files, source(), dtype)
    if dtype is not None or without_quantization(config) != config:
        side_files = side_files.with_json(CONFIG, without_quantization(config))
        side_files = with_dtype(side_files, values_of(files))

    def parts(inside: str) -> Iterator[Tensor]:
        rule, form = rules[inside], forms[inside]
        return (reader.view(rule, box).to(form.dtype) for box in canonical_parts(rule, form.dtype.itemsize))

    def finish(content: Path, records: dict[str, StoredFile]) -> None:
        side_files.write(content / "hf")
        tensors = {
            WEIGHTS + rules[inside].name: _stored(rules[inside], form, inside, file.name)
            for file in files
            for inside, form in file.forms.items()
        }
        write_manifest(content, {"experts_in_out": reader.experts_in_out}, [(tensors, records)])

    def compare(content: Path) -> list[Compared]:
        drop_cached(content.glob("*.safetensors"))
        store = StoreReader(content)
        check_same_model(store, reader.architecture)
        if odd := store.tensors.keys() ^ {WEIGHTS + rule.name for rule in rules.values()}:
            raise ValueError(f"{content} holds {min(odd)!r:.100}, or lacks it, unlike its source")
        compared = [
            ComparedRule(
                rule, forms[inside].dtype, _read_store(store, (WEIGHTS,)), reader.view,
                sorted({content / stored.file for stored in store.tensors[WEIGHTS + rule.name].boxes}),
            )
            for inside, rule in rules.items()
        ]  # fmt: skip
        beside = [ComparedBytes(content / "hf" / name, text) for name, text in side_files.contents.items()]
        checked = [ComparedFile(content, name, entry) for name, entry in store.manifest.files.items()]
        return [*beside, *checked, *compared]

    return Conversion(plan, files, source, parts, finish, compare, digest=True)


def _inside(rule: Rule) -> str:
    """The name of a whole tensor in a store's file, as `StoreWriter` has it."""
    return f"{WEIGHTS}{rule.name}@{','.join('0' for _ in rule.shape)}"


def _stored(rule: Rule, form: TensorForm, inside: str, file: str) -> StoredTensor:
    box = StoredBox(start=[0] * len(rule.shape), length=list(rule.shape), inside=inside, file=file)
    return StoredTensor(shape=list(rule.shape), dtype=str(form.dtype).removeprefix("torch."), boxes=[box])


# ---- checkpoint -> folder --------------------------------------------------------------------------------------------


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
        lambda rule: store.dtype(WEIGHTS + rule.name), _read_store(store, prefixes),
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


def _read_store(store: StoreReader, prefixes: tuple[str, ...]) -> Read:
    """Boxes of a rule's tensor, under the first of these prefixes that the store has it under."""

    def read(rule: Rule, box: Box) -> Tensor:
        keys = [prefix + rule.name for prefix in prefixes]
        return store.view(next((key for key in keys if key in store.tensors), keys[-1]), box)

    return read
