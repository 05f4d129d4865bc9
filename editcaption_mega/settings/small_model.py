"""The sizes of a small random Qwen3-VL, for trying things without weights."""

from dataclasses import dataclass, fields

from .checks import SettingsError


@dataclass(frozen=True)
class SmallModel:
    """Sizes of a small model. `experts` 0 is dense; `seed` decides the weights."""

    hidden_size: int = 128
    num_layers: int = 4
    num_heads: int = 8
    num_kv_heads: int = 4
    head_dim: int = 32
    intermediate_size: int = 384
    experts: int = 4
    experts_per_token: int = 2
    expert_intermediate_size: int = 192
    vision_hidden_size: int = 96
    vision_depth: int = 2
    vision_heads: int = 4
    vision_intermediate_size: int = 192
    patch_size: int = 16
    deepstack_layers: tuple[int, ...] = (0, 1)
    num_grid_per_side: int = 8
    tied: bool = False
    vocabulary: int = 0  # rows of the embedding where the tokenizer has fewer
    # Three choices for small widths; the released models' values are for widths of thousands and long texts.
    initializer_range: float = 0.06  # about 1 / sqrt(hidden)
    position_range: float = 0.7  # learned picture positions as loud as the patches, so that places can be compared
    rope_theta: float = 100.0  # neighboring places differ clearly even with few rotary channels
    seed: int = 0

    def validate(self) -> None:
        """Raises SettingsError for sizes of which no Qwen3-VL can be made."""
        for field in fields(self):
            value = getattr(self, field.name)
            least = 0 if field.name in ("experts", "vocabulary", "seed") else 1
            if isinstance(value, int) and not isinstance(value, bool) and value < least:
                raise SettingsError(f"{field.name}={value}: expected {least} or more")
        for whole, part in (("num_heads", "num_kv_heads"), ("vision_hidden_size", "vision_heads")):
            if getattr(self, whole) % getattr(self, part):
                raise SettingsError(
                    f"{whole}={getattr(self, whole)} must be a multiple of {part}={getattr(self, part)}"
                )
        if self.head_dim % 2 or self.head_dim < 6:
            raise SettingsError(f"head_dim={self.head_dim}: expected an even number from 6 on")
        if self.vision_hidden_size // self.vision_heads % 4:
            raise SettingsError(
                f"vision_hidden_size / vision_heads is {self.vision_hidden_size // self.vision_heads}: expected a "
                "multiple of 4, for two axes of rotary"
            )
        if 0 < self.experts < self.experts_per_token:
            raise SettingsError(f"experts_per_token={self.experts_per_token} is more than experts={self.experts}")
        if outside := [layer for layer in self.deepstack_layers if not 0 <= layer < self.vision_depth]:
            raise SettingsError(f"deepstack_layers names layer {outside[0]}, and vision_depth={self.vision_depth}")
