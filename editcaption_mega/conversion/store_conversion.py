"""Folder -> checkpoint, as a plan of output files."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from editcaption_mega.data.text.side_files import CONFIG, SideFiles

from .fp8 import without_quantization
from .hugging_face import FolderReader, with_dtype
from .jobs import (
    Compared,
    ComparedBytes,
    ComparedFile,
    ComparedRule,
    Conversion,
    OutputFile,
    canonical_parts,
    digest_of,
    drop_cached,
    file_identity,
    level_files,
    plan_of,
    values_of,
)
from .manifest import StoredBox, StoredFile, StoredTensor
from .rules import Rule, unique_rules
from .store import WEIGHTS, StoreReader, check_same_model, read_store, write_manifest
from .tensor_file import TensorForm

STORE_FILE_BYTES = 1 << 30  # of a converted checkpoint: what a killed process makes again at the most


def to_store(folder: Path, dtype: torch.dtype | None) -> Conversion:
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
                rule, forms[inside].dtype, read_store(store, (WEIGHTS,)), reader.view,
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
