"""What the model writes while it trains, at each evaluation."""

from dataclasses import dataclass

from .checks import SettingsError, at_least


@dataclass
class SampleSettings:
    """The likeliest texts for a few held-out pairs, the same ones at each evaluation (`evaluation.every`)."""

    pairs: int = 3  # of those that are held out; 0: none
    seed: int = 0  # which pairs
    max_new_tokens: int = 128  # of a text; a longer one is cut, and marked so

    def validate(self) -> None:
        at_least("samples.pairs", self.pairs, 0)
        at_least("samples.seed", self.seed, 0)
        at_least("samples.max_new_tokens", self.max_new_tokens, 1)


def check_sampling(samples: SampleSettings, *, evaluates: bool) -> None:
    """Raises SettingsError for texts that are asked for and would never be written."""
    if samples.pairs not in (0, SampleSettings.pairs) and not evaluates:
        raise SettingsError(
            f"samples.pairs={samples.pairs} is for texts that are written at each evaluation, and evaluation.every is "
            "0: set that, or leave it out"
        )
