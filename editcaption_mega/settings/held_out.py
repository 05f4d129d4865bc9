"""Which pairs a job keeps apart from those that it trains on."""

from dataclasses import dataclass, field

from .checks import SettingsError, at_least


@dataclass(kw_only=True)
class HeldOutPairs:
    """Pairs that are looked at while a job trains (`evaluation.every`), and never trained on."""

    held_out: list[str] = field(default_factory=list)  # folders of shards of their own
    # Or so much of data.shards, cut off before the first step: pairs of one source picture stay together.
    held_out_share: float = 0.0
    held_out_seed: int = 0  # which ones these are, whatever training.seed is

    def check_held_out(self) -> None:
        """Raises SettingsError."""
        if not 0 <= self.held_out_share < 1:
            raise SettingsError(
                f"data.held_out_share={self.held_out_share} must lie in [0, 1): 0.01 holds out one pair in a hundred"
            )
        at_least("data.held_out_seed", self.held_out_seed, 0)
        if self.held_out and self.held_out_share:
            raise SettingsError(
                f"data.held_out={self.held_out} and data.held_out_share={self.held_out_share} are two ways to hold "
                "pairs out: leave one of them"
            )
        if self.held_out_seed and not self.held_out_share:
            raise SettingsError(
                f"data.held_out_seed={self.held_out_seed} has a meaning with data.held_out_share only: set that, or "
                "leave it out"
            )

    @property
    def holds_out(self) -> bool:
        return bool(self.held_out or self.held_out_share)
