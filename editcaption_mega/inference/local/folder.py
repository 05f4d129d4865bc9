"""What a Hugging Face model folder must hold before anything is loaded from it."""

import hashlib
from pathlib import Path

from editcaption_mega.data.text.side_files import (
    CONFIG,
    SINGLE_WEIGHTS,
    WEIGHT_INDEX,
    SideFiles,
    is_peft_folder,
    weight_index,
)

MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def check_folder(folder: str | Path) -> Path:
    """The folder as a Path; ValueError in one sentence when it isn't a complete Qwen3-VL folder, or a PEFT folder of
    adapters on one."""
    files = SideFiles.read(folder).require(CONFIG, "the model's configuration")
    path = files.folder
    kind = files.json(CONFIG).get("model_type")
    if kind not in MODEL_TYPES:
        raise ValueError(f"{path}/config.json: `model_type` must be one of {MODEL_TYPES}, found {kind!r:.60}")
    if weight_index(path) is None and not (path / SINGLE_WEIGHTS).is_file():
        raise ValueError(
            f"{path}: expected weights as {SINGLE_WEIGHTS}, or as {WEIGHT_INDEX} with its files, found neither"
        )
    if not any(name in files.contents for name in TOKENIZER_FILES):
        raise ValueError(
            f"{path}: expected a tokenizer (tokenizer.json, or vocab.json with merges.txt), found none; "
            "copy it from the model's original folder"
        )
    files.json("tokenizer_config.json")
    files.image_processor()
    files.end_ids()
    if is_peft_folder(folder):
        from editcaption_mega.conversion import WeightSource

        WeightSource.of(folder)
    return Path(folder)


def check_model(folder: str | Path) -> Path:
    """As `check_folder`, for a model that runs in this process: every weight must be there, and be a number.

    transformers would draw a missing tensor at random and go on."""
    from editcaption_mega.conversion.hugging_face import FolderReader

    path = check_folder(folder)
    FolderReader(SideFiles.read(path).folder)
    return path


def folder_digests(folder: str | Path) -> dict[str, str]:
    """What a folder's texts depend on: its weights, and its files beside them (tokenizer, template, processor, ..).

    Raises ValueError for no folder."""
    from editcaption_mega.conversion import WeightSource

    digest = hashlib.sha256()
    for name, content in sorted(SideFiles.read(folder).contents.items()):
        digest.update(f"{name}:{len(content)}\n".encode() + content)
    return {"weights": WeightSource.of(folder).digest(), "files": digest.hexdigest()}
