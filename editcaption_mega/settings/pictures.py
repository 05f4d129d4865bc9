"""How large a model sees a picture: one rule for training, scoring, generation and endpoints."""

from dataclasses import dataclass

from .checks import SettingsError


@dataclass(kw_only=True)
class PixelLimits:
    """A picture is resized to at least `min_pixels` (4 tokens of 32 x 32) and at most `max_pixels` (1,280 tokens; ours,
    not Qwen's default of 16,384 tokens)."""

    min_pixels: int = 4 * 32 * 32  # 4 tokens of 32 x 32; a smaller picture is enlarged
    max_pixels: int = 1280 * 32 * 32  # 1,280 tokens, ours, not Qwen's default of 16,384; a larger picture is reduced

    def check_pixels(self, section: str) -> None:
        """section: whose limits these are, as messages name it. Raises SettingsError."""
        if not 0 < self.min_pixels <= self.max_pixels:
            raise SettingsError(
                f"{section}.max_pixels={self.max_pixels} must be at least {section}.min_pixels={self.min_pixels}, and "
                "that above 0"
            )
