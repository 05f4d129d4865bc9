"""How weights are updated, at which rate, and which of them."""

from dataclasses import dataclass

from .checks import SettingsError, at_least


@dataclass
class OptimizerSettings:
    """AdamW with linear warm-up and cosine decay."""

    learning_rate: float = 1e-5
    min_learning_rate: float = 0.0
    warmup_steps: int = 0
    weight_decay: float = 0.1  # not on biases, norms and other 1-D parameters
    beta1: float = 0.9
    beta2: float = 0.95
    eps: float = 1e-8
    clip_grad: float = 1.0  # global gradient norm; 0: no clipping
    # Learning-rate multipliers per module; 0 freezes a module. Nothing is frozen by default.
    vision: float = 1.0
    merger: float = 1.0  # main and DeepStack mergers
    language: float = 1.0
    router: float = 1.0

    def validate(self) -> None:
        for name in ("learning_rate", "eps"):
            if getattr(self, name) <= 0:
                raise SettingsError(f"optimizer.{name}={getattr(self, name)} must be above 0")
        for name in ("min_learning_rate", "warmup_steps", "weight_decay", "clip_grad", *self.multipliers()):
            at_least(f"optimizer.{name}", getattr(self, name), 0)
        if self.min_learning_rate > self.learning_rate:
            raise SettingsError(
                f"optimizer.min_learning_rate={self.min_learning_rate} is above learning_rate={self.learning_rate}"
            )
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"optimizer.{name}={getattr(self, name)} must lie in [0, 1)")
        if not any(self.multipliers().values()):
            raise SettingsError("optimizer: vision, merger, language and router are all 0, so nothing would be trained")

    def multipliers(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("vision", "merger", "language", "router")}
