"""The sizes of the released Qwen3-VL models, which come with the package: planning needs neither weights nor network.

`released_configs/NAME.json` is the config.json of the release with the fields that `Architecture` reads, and no other.
Training never asks here: it reads the folder that it trains, and one that is not there is an error.
"""

import json
import re
from importlib import resources
from pathlib import Path

from .architecture import Architecture

RELEASED = (
    "Qwen3-VL-2B",
    "Qwen3-VL-4B",
    "Qwen3-VL-8B",
    "Qwen3-VL-32B",
    "Qwen3-VL-30B-A3B",
    "Qwen3-VL-235B-A22B",
)
# Both editions of a size are built alike. A quantized release is none that can be trained.
_EDITION = re.compile(r"-(instruct|thinking)$", re.IGNORECASE)


def released_architecture(name: str) -> Architecture:
    """The sizes of a model of `RELEASED`, with or without its edition: `Qwen3-VL-8B`, `Qwen3-VL-8B-Instruct`.

    Raises ValueError for any other name."""
    size = _EDITION.sub("", name).lower()
    match = next((released for released in RELEASED if released.lower() == size), None)
    if match is None:
        raise ValueError(f"{name!r:.100} is no released model whose sizes are known here: {', '.join(RELEASED)}")
    file = resources.files("editcaption_mega.model").joinpath("released_configs", f"{match}.json")
    return Architecture.from_config(json.loads(file.read_bytes()), where=f"released_configs/{match}.json")


def architecture_to_plan(folder: str | Path) -> Architecture:
    """The sizes of the model of a folder; where there is none, of the released model that its last part names, so that
    `models/Qwen3-VL-8B-Instruct` is planned before it is downloaded.

    For planning alone. Raises ValueError as `Architecture.from_folder`, and for a folder that is not there and whose
    name is no released model's."""
    if Path(folder).exists():
        return Architecture.from_folder(folder)
    try:
        return released_architecture(Path(folder).name)
    except ValueError as error:
        raise ValueError(
            f"model.folder={folder}: no such folder, and {error}; name one of these, or a folder with a config.json"
        ) from None
