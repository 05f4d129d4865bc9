"""Adapters of a PEFT folder as vLLM computes them, beside the weights that they are on."""

import json
from dataclasses import dataclass
from pathlib import Path

from safetensors import SafetensorError, safe_open

from editcaption_mega.data.text.side_files import ADAPTER_CONFIG, is_peft_folder, named_base
from editcaption_mega.files import read_json_object

_RANKS = (1, 8, 16, 32, 64, 128, 256, 320, 512)  # that max_lora_rank may be
# It leaves these out without a word, or fails on them (vllm-project/vllm, pull requests 41384 and 52194).
_NOT_COMPUTED = {".visual.": "the vision tower", ".experts.": "experts", ".mlp.gate.": "routers"}
_MEND = "put them into the weights (editcaption convert megatron-to-hf --base) and name that folder"


@dataclass(frozen=True)
class VllmAdapter:
    folder: Path
    base: Path  # folder of the weights
    max_rank: int

    @classmethod
    def of(cls, folder: str | Path) -> "VllmAdapter | None":
        """None for a folder that is no PEFT folder. Raises ValueError for adapters that vLLM would not compute."""
        if not is_peft_folder(folder):
            return None
        path = Path(folder)
        config, base = read_json_object(path / ADAPTER_CONFIG), named_base(path)
        rank = config.get("r")
        if not isinstance(rank, int) or not 1 <= rank <= _RANKS[-1]:
            raise ValueError(f"{path}: vLLM computes adapters of rank 1 to {_RANKS[-1]}, found {rank!r:.20}: {_MEND}")
        if config.get("use_dora"):
            raise ValueError(f"{path}: vLLM computes no DoRA: {_MEND}")
        for name in _tensor_names(path):
            for part, what in _NOT_COMPUTED.items():
                if part in name:
                    raise ValueError(f"{path} has adapters on {what}, which vLLM does not compute: {_MEND}")
        return cls(path, base, min(allowed for allowed in _RANKS if allowed >= rank))

    def words(self, name: str) -> list[str]:
        """Arguments of `vllm serve BASE`, which serves them under this name."""
        module = json.dumps({"name": name, "path": str(self.folder)})
        return ["--enable-lora", "--max-lora-rank", str(self.max_rank), "--lora-modules", module]


def _tensor_names(folder: Path) -> list[str]:
    path = folder / "adapter_model.safetensors"
    try:
        with safe_open(path, "np") as file:
            return list(file.keys())
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{path} is damaged or cannot be read: {' '.join(str(error).split())}") from None
