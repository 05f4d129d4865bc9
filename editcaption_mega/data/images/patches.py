"""Picture -> patches of Qwen3-VL: the size it is resized to, its grid, and its pixels in patch order.

Resizing, patch order and normalization are those of transformers' Qwen2VLImageProcessor (equal to 1e-6, held by a
test). On the host a picture stays as the 8 bits a channel that it was decoded to, a quarter of the bytes of the numbers
that the model computes with: `normalized` makes those, wherever the pixels are.
"""

import math
from dataclasses import asdict, dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from editcaption_mega.data.text.side_files import CONFIG, SideFiles

from .sizes import QWEN3_VL, resized_size

Grid = tuple[int, int, int]  # frames, patch rows, patch columns

# The same in the model's config.json.
_MODEL_KEYS = {
    "patch_size": "patch_size",
    "merge_size": "spatial_merge_size",
    "temporal_patch_size": "temporal_patch_size",
}
_HALF = (0.5, 0.5, 0.5)
# What is done to every picture here, under the names of the image processor's file.
_PROCESSING = {"do_resize": True, "do_rescale": True, "do_normalize": True, "resample": 3, "rescale_factor": 1 / 255}


@dataclass(frozen=True)
class ImageSettings:
    """How pictures become patches. Pixel limits count pixels after resizing."""

    patch_size: int
    merge_size: int
    temporal_patch_size: int
    min_pixels: int
    max_pixels: int
    mean: tuple[float, float, float] = _HALF
    std: tuple[float, float, float] = _HALF

    @property
    def factor(self) -> int:
        """Sides of a resized picture are multiples of this: one token of the language model is factor x factor."""
        return self.patch_size * self.merge_size

    @classmethod
    def from_folder(cls, folder: str | Path, *, min_pixels: int, max_pixels: int) -> "ImageSettings":
        """Read the folder's image processor; the pixel limits are the caller's.

        Raises ValueError for what is missing, of another type, or done to pictures that is not done here."""
        files = SideFiles.read(folder)
        name, config = files.image_processor()
        path = Path(folder) / name
        missing = [key for key in QWEN3_VL if key not in config]
        if missing:
            raise ValueError(f"{path} lacks {', '.join(missing)}, which every Qwen3-VL folder has")
        for key in QWEN3_VL:
            if type(config[key]) is not int or not 0 < config[key] <= 1024:
                raise ValueError(f"{path}: `{key}` is {config[key]!r:.50}, expected a small whole number such as 2")
        model = files.json(CONFIG).get("vision_config")
        model = model if isinstance(model, dict) else {}
        for key, model_key in _MODEL_KEYS.items():
            if model.get(model_key, config[key]) != config[key]:
                raise ValueError(
                    f"{path}: `{key}` is {config[key]}, config.json has {model_key} {model[model_key]!r:.60}: take the "
                    "file that belongs to the model"
                )
        for key, expected in _PROCESSING.items():
            if config.get(key) not in (None, expected):
                raise ValueError(f"{path}: `{key}` is {config[key]!r:.80}, only {expected!r} is supported")
        channels: dict[str, tuple[float, float, float]] = {}
        for key in ("image_mean", "image_std"):
            values = config.get(key, _HALF)
            if not isinstance(values, list | tuple) or len(values) != 3 or not all(map(_is_share, values)):
                raise ValueError(f"{path}: `{key}` is {values!r:.80}, expected three numbers between 0 and 1")
            red, green, blue = map(float, values)
            channels[key] = (red, green, blue)
        if 0.0 in channels["image_std"]:
            raise ValueError(f"{path}: `image_std` is {config['image_std']!r:.80}, expected numbers above 0")
        return cls(
            **{key: config[key] for key in QWEN3_VL},
            min_pixels=min_pixels,
            max_pixels=max_pixels,
            mean=channels["image_mean"],
            std=channels["image_std"],
        )

    @property
    def normalization(self) -> Tensor:
        """Mean and standard deviation of each channel, of values 0 .. 255 [2, 3] fp32."""
        return torch.tensor((self.mean, self.std)) * 255.0

    @property
    def patch_bytes(self) -> int:
        """Of one patch: its pixels, three channels each."""
        return 3 * self.patch_size**2

    def to_json(self) -> dict[str, Any]:
        return asdict(self)


def _is_share(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value <= 1


def smart_resize(height: int, width: int, settings: ImageSettings) -> tuple[int, int]:
    """As `resized_size`, under these settings."""
    return resized_size(
        height, width, factor=settings.factor, min_pixels=settings.min_pixels, max_pixels=settings.max_pixels
    )


def image_grid(width: int, height: int, settings: ImageSettings) -> Grid:
    """Patches of a picture of this size: (1, rows, columns)."""
    rows, columns = smart_resize(height, width, settings)
    return 1, rows // settings.patch_size, columns // settings.patch_size


def grid_tokens(grid: Grid, merge_size: int) -> int:
    """Tokens of the language model that a picture takes."""
    return math.prod(grid) // merge_size**2


def limit_picture(image: Image.Image, *, min_pixels: int, max_pixels: int) -> Image.Image:
    """The RGB picture in the size, and with the pixels, that a Qwen3-VL in process sees under these limits.

    For servers: what they get is then what the in-process models get, and its bytes are bounded. A picture that comes
    back in its own size is unchanged. Raises ValueError as `smart_resize` does."""
    return Image.fromarray(_resized(image, _qwen3_vl(min_pixels, max_pixels)).numpy())


@lru_cache(maxsize=8)
def _qwen3_vl(min_pixels: int, max_pixels: int) -> ImageSettings:
    sizes: dict[str, Any] = dict(QWEN3_VL)
    return ImageSettings(**sizes, min_pixels=min_pixels, max_pixels=max_pixels)


def _resized(image: Image.Image, settings: ImageSettings) -> Tensor:
    """RGB picture -> [rows, columns, 3] uint8 of the size that `smart_resize` says."""
    pixels: Tensor = torch.from_numpy(np.array(image, dtype=np.uint8))
    rows, columns = smart_resize(image.height, image.width, settings)
    if (rows, columns) != (image.height, image.width):
        from torchvision.transforms.v2 import InterpolationMode, functional  # seconds, which many tools never need

        bicubic = InterpolationMode.BICUBIC
        resized = functional.resize(pixels.permute(2, 0, 1), [rows, columns], interpolation=bicubic, antialias=True)
        pixels = resized.permute(1, 2, 0)
    return pixels


def image_patches(image: Image.Image, settings: ImageSettings) -> Tensor:
    """RGB picture -> [patches, patch_size ** 2 * 3] uint8 in merge-block order; of a patch row, column, channel.

    The pixels of a patch's row stay together, so this is little more than a copy."""
    pixels = _resized(image, settings)
    rows, columns = pixels.shape[:2]
    patch, merge = settings.patch_size, settings.merge_size
    blocks = pixels.reshape(rows // patch // merge, merge, patch, columns // patch // merge, merge, patch * 3)
    # Block row, block column, row of patches, column of patches, row of pixels, columns with their channels.
    patches: Tensor = blocks.permute(0, 3, 1, 4, 2, 5).reshape(-1, settings.patch_bytes)
    return patches


def normalized(pixels: Tensor, normalization: Tensor) -> Tensor:
    """Patches of `image_patches` -> the same values in fp32, normalized as `ImageSettings.normalization` says, which is
    on the device of the pixels."""
    mean, std = normalization
    values: Tensor = (pixels.unflatten(1, (pixels.size(1) // 3, 3)).float() - mean) / std
    return values.flatten(1)


def processor_patches(pixels: Tensor, settings: ImageSettings) -> Tensor:
    """Patches of `image_patches` as transformers' processor has them, for its models: [patches, 3 * temporal_patch_size
    * patch_size ** 2] fp32, channel, frame, row, column. A picture's frames are all the same."""
    values = normalized(pixels, settings.normalization.to(pixels.device)).view(-1, settings.patch_size**2, 3)
    return values.transpose(1, 2).unsqueeze(2).expand(-1, -1, settings.temporal_patch_size, -1).flatten(1)
