"""What a Hugging Face model folder must hold before anything is loaded from it."""

import json
from pathlib import Path

MODEL_TYPES = ("qwen3_vl", "qwen3_vl_moe")
TOKENIZER_FILES = ("tokenizer.json", "vocab.json")


def check_folder(folder: str | Path) -> Path:
    """The folder as a Path; ValueError in one sentence when it isn't a complete Qwen3-VL folder."""
    path = Path(folder)
    if not path.is_dir():
        raise ValueError(f"{path}: expected a folder with a Hugging Face Qwen3-VL model, found no folder")
    _require(path, "config.json", "the model's configuration")
    config = read_json(path / "config.json")
    if config.get("model_type") not in MODEL_TYPES:
        raise ValueError(
            f"{path}/config.json: `model_type` must be one of {MODEL_TYPES}, found {config.get('model_type')!r}"
        )
    _check_weights(path)
    if not any((path / name).is_file() for name in TOKENIZER_FILES):
        raise ValueError(
            f"{path}: expected a tokenizer (tokenizer.json, or vocab.json with merges.txt), found none; "
            "copy it from the model's original folder"
        )
    _require(path, "preprocessor_config.json", "the image sizes and normalisation")
    return path


def read_json(path: Path) -> dict:
    """The object in a JSON file; ValueError that names the file when it isn't one."""
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except (UnicodeDecodeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path}: expected JSON, found {error}") from None
    if not isinstance(content, dict):
        raise ValueError(f"{path}: expected a JSON object, found {type(content).__name__}")
    return content


def _require(path: Path, name: str, what: str) -> None:
    if not (path / name).is_file():
        raise ValueError(f"{path}: expected {name} ({what}), found none; copy it from the model's original folder")


def _check_weights(path: Path) -> None:
    index = path / "model.safetensors.index.json"
    if index.is_file():
        shards = sorted(set(read_json(index).get("weight_map", {}).values()))
        missing = [name for name in shards if not (path / name).is_file()]
        if missing or not shards:
            raise ValueError(
                f"{path}: expected the {len(shards)} weight files that {index.name} names, "
                f"found {len(shards) - len(missing)} (missing: {', '.join(missing[:3]) or 'all'})"
            )
    elif not (path / "model.safetensors").is_file():
        raise ValueError(
            f"{path}: expected weights as model.safetensors, or as model.safetensors.index.json with its files, "
            "found neither"
        )
