"""How weights are updated, at which rate, and which of them."""

import math
from dataclasses import dataclass

from .checks import SettingsError, at_least, choice, within

SCHEDULES = ("constant", "linear", "cosine", "wsd")
DECAY_FORMS = ("linear", "cosine", "exponential", "minus_sqrt")


@dataclass
class OptimizerSettings:
    """AdamW, and a learning rate that rises, stays and falls; formulas in training/learning_rate.py."""

    learning_rate: float = 1e-5  # the highest, after warm-up
    min_learning_rate: float = 0.0  # what linear, cosine and wsd end at; a constant rate never comes to it
    # After warm-up: constant | linear or cosine, from there to the last step | wsd: constant, then a decay at the end
    schedule: str = "cosine"
    warmup_steps: int = 0  # the rate rises in a straight line; step 1 has 1 / (warmup_steps + 1) of it
    warmup_ratio: float = 0.0  # the same as a share of all steps, rounded up; set one of both
    decay_steps: int | None = None  # wsd: the last so many steps
    decay_ratio: float | None = None  # wsd: the same as a share of all steps, rounded up; set one of both
    decay_form: str = "linear"  # wsd: linear | cosine | exponential | minus_sqrt
    weight_decay: float = 0.1  # not on biases, norms and other 1-D parameters
    beta1: float = 0.9  # decay of the first moment
    beta2: float = 0.95  # decay of the second moment
    eps: float = 1e-8  # added to the root of the second moment
    clip_grad: float = 1.0  # global gradient norm; 0: no clipping
    # Learning-rate multipliers per module; 0 freezes a module. Nothing is frozen by default.
    vision: float = 1.0
    merger: float = 1.0  # main and DeepStack mergers
    language: float = 1.0  # embedding, layers, LM head
    router: float = 1.0  # of the experts

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
        self._check_schedule()
        for name in ("beta1", "beta2"):
            if not 0 <= getattr(self, name) < 1:
                raise SettingsError(f"optimizer.{name}={getattr(self, name)} must lie in [0, 1)")
        if not any(self.multipliers().values()):
            raise SettingsError("optimizer: vision, merger, language and router are all 0, so nothing would be trained")

    def _check_schedule(self) -> None:
        choice("optimizer.schedule", self.schedule, SCHEDULES)
        choice("optimizer.decay_form", self.decay_form, DECAY_FORMS)
        within("optimizer.warmup_ratio", self.warmup_ratio, 0, 1)
        if self.warmup_steps and self.warmup_ratio:
            raise SettingsError(
                f"optimizer.warmup_steps={self.warmup_steps} and optimizer.warmup_ratio={self.warmup_ratio} both say "
                "how long warm-up is: leave one of them at 0"
            )
        given = [name for name in ("decay_steps", "decay_ratio") if getattr(self, name) is not None]
        if self.schedule != "wsd":
            for name in given + ["decay_form"] * (self.decay_form != "linear"):
                raise SettingsError(
                    f"optimizer.{name}={getattr(self, name)} has a meaning with optimizer.schedule=wsd only, which is "
                    f"{self.schedule}: set that, or leave it out"
                )
            return
        if len(given) != 1:
            raise SettingsError(
                f"optimizer.schedule=wsd decays at the end, and {'both' if given else 'neither'} of "
                "optimizer.decay_steps and optimizer.decay_ratio say for how long: set one of them, such as "
                "optimizer.decay_ratio=0.1"
            )
        if self.decay_steps is not None:
            at_least("optimizer.decay_steps", self.decay_steps, 1)
        elif self.decay_ratio is not None and not 0 < self.decay_ratio <= 1:
            raise SettingsError(f"optimizer.decay_ratio={self.decay_ratio} must be above 0 and at most 1")

    def warmup_of(self, total_steps: int) -> int:
        """Steps of warm-up in a run of so many."""
        return _share(self.warmup_ratio, total_steps) if self.warmup_ratio else self.warmup_steps

    def decay_of(self, total_steps: int) -> int:
        """Steps in which the rate of wsd falls, in a run of so many; 0 of other schedules."""
        return self.decay_steps or _share(self.decay_ratio or 0.0, total_steps)

    def check_steps(self, total_steps: int) -> None:
        """Raises SettingsError where a run of so many steps has no room for warm-up and decay."""
        warmup, decay = self.warmup_of(total_steps), self.decay_of(total_steps)
        if decay and warmup + decay > total_steps:
            raise SettingsError(
                f"optimizer: a warm-up of {warmup} and a decay of {decay} steps (schedule=wsd) are more than the "
                f"{total_steps} steps of the run: lower warmup_steps or decay_steps (or their ratios), or raise "
                "training.steps"
            )

    def multipliers(self) -> dict[str, float]:
        return {name: getattr(self, name) for name in ("vision", "merger", "language", "router")}


def _share(ratio: float, total: int) -> int:
    """Rounded up, but not because of a double's last digit: 0.07 of 100 are 7."""
    return math.ceil(round(ratio * total, 6))
