"""Low-rank adapters (LoRA): how large they are, and on which modules."""

import dataclasses
from dataclasses import dataclass, field
from typing import Literal

from .checks import SettingsError, at_least


@dataclass
class AdapterSettings:
    """Adapters on frozen weights (LoRA), which alone are trained then; docs/lora.md. None are made with rank 0."""

    rank: int = 0  # of each adapter; 0: there are none, and the weights themselves are trained
    alpha: float = 32.0  # an adapter's output is multiplied by alpha / rank
    rslora: bool = False  # by alpha / sqrt(rank) instead
    dropout: float = 0.0  # share of an adapter's inputs that is set to zero in training; not of experts and routers
    dora: bool = False  # directions and magnitudes of rows apart (DoRA); not of experts and routers
    # Patterns of Hugging Face names, whole or from any dot on: self_attn.*, layers.1?.mlp.*_proj, visual.*, mlp.gate
    modules: list[str] = field(default_factory=lambda: ["language_model.layers.*_proj"])
    experts: Literal["each", "shared"] = "each"  # an adapter for each expert | one for all experts of a layer
    # A run, checkpoint or PEFT folder whose adapters to start from; "": new ones, which change nothing
    start: str = ""

    @property
    def scale(self) -> float:
        """What an adapter's output is multiplied by."""
        return self.alpha / (self.rank**0.5 if self.rslora else self.rank)

    def validate(self) -> None:
        at_least("model.adapters.rank", self.rank, 0)
        if not self.rank:
            self._refuse_unused()
            return
        if self.alpha <= 0:
            raise SettingsError(f"model.adapters.alpha={self.alpha} must be above 0, or adapters would change nothing")
        if not 0 <= self.dropout < 1:
            raise SettingsError(f"model.adapters.dropout={self.dropout} must lie in [0, 1)")
        if not self.modules:
            raise SettingsError("model.adapters.modules is empty: name a pattern, or set model.adapters.rank=0")

    def _refuse_unused(self) -> None:
        """What would be ignored is refused: whoever sets it expects adapters."""
        for each in dataclasses.fields(self):
            value = getattr(self, each.name)
            if value != getattr(AdapterSettings(), each.name):
                raise SettingsError(
                    f"model.adapters.{each.name}={value} has a meaning with model.adapters.rank above 0 only: set "
                    "that, or leave it out"
                )
