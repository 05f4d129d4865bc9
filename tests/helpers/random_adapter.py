"""A PEFT folder of adapters that were never trained, on a model folder."""

from pathlib import Path

import torch

from editcaption_mega.conversion import AdapterChoice
from editcaption_mega.conversion.peft_folder import write_peft_folder
from editcaption_mega.conversion.weights_digest import weights_digest
from editcaption_mega.model import Architecture
from editcaption_mega.settings import AdapterSettings


def write_random_adapter(folder: Path, base: Path, settings: AdapterSettings, seed: int = 1) -> Path:
    choice = AdapterChoice.of(Architecture.from_folder(base), settings)
    draws = torch.Generator().manual_seed(seed)
    values = {rule.name: torch.randn(rule.shape, generator=draws).abs() / 4 for rule in choice.rules.values()}
    write_peft_folder(folder, choice, values, str(base), weights_digest(base))
    return folder
