"""Folders of FP8 weights with their scales: what they say, and the numbers that they stand for.

A weight is stored as float8_e4m3fn beside a scale, by which its values are multiplied in fp32: one for each block of
128 x 128 (`weight_scale_inv`; DeepSeek-V3, arXiv:2412.19437, section 3.3, and its `weight_dequant`), for each row, or
for all (`weight_scale`, as compressed-tensors writes it). An expert's matrix has scales of its own.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from .rules import Shape

STORED = "F8_E4M3"  # safetensors' name
MEND = "take the release that is not quantized (its name is without -FP8, -AWQ and the like)"
SCALES = ("_scale_inv", "_scale")  # behind a weight's name
_OF_ACTIVATIONS = (".input_scale", ".activation_scale", "_activation_scale", ".k_scale", ".v_scale")
_KEY = "quantization_config"


@dataclass(frozen=True)
class Fp8:
    """What config.json says of FP8 weights. block: rows and columns that share a scale, where blocks do."""

    block: tuple[int, int] = (128, 128)

    @classmethod
    def of_config(cls, config: Mapping[str, Any], where: str) -> "Fp8 | None":
        """None for a model that is not quantized. Raises ValueError that names any other quantization."""
        text = config.get("text_config")
        settings = config.get(_KEY, text.get(_KEY) if isinstance(text, Mapping) else None)
        if settings is None:
            return None
        method = str(settings.get("quant_method", "unknown")) if isinstance(settings, Mapping) else str(settings)
        if method == "fp8" and settings.get("fmt", "e4m3") == "e4m3":
            return cls._of_block(settings.get("weight_block_size"), where)
        if method == "compressed-tensors" and settings.get("format") == "float-quantized":
            groups = settings.get("config_groups")
            weights = [group.get("weights") for group in groups.values()] if isinstance(groups, Mapping) else []
            blocks = [part["block_structure"] for part in weights if part and part.get("block_structure")]
            return cls._of_block(blocks[0] if blocks else None, where)
        forms = [str(settings[key]) for key in ("format", "fmt", "quant_algo", "bits") if key in settings]
        name = " ".join([method.upper(), *forms])
        raise ValueError(f"{where}: the weights are quantized ({name:.60}), which cannot be converted: {MEND}")

    @classmethod
    def _of_block(cls, block: Any, where: str) -> "Fp8":
        if block is None:
            return cls()
        if not isinstance(block, list) or len(block) != 2 or not all(type(n) is int and n > 0 for n in block):
            raise ValueError(f"{where}: the blocks of the FP8 weights are {block!r:.60}, expected two sizes")
        return cls((block[0], block[1]))

    def check_scale(self, name: str, weight: Shape, scale: Shape) -> None:
        """Raise ValueError where a scale of this shape does not belong to a weight of that one."""
        if _grid(scale, len(weight)) not in self._grids(weight):
            blocks = [-(-n // size) for n, size in zip(weight[-2:], self.block, strict=True)]
            raise ValueError(
                f"the scale of {name}, which has shape {list(weight)}, has shape {list(scale)}: expected one for each "
                f"block of {self.block[0]} x {self.block[1]} ({[*weight[:-2], *blocks]}), for each row, or for all"
            )

    def numbers(self, values: Tensor, scale: Tensor, shape: Shape, region: tuple[slice, ...]) -> Tensor:
        """The fp32 numbers of `values`, a region of an FP8 weight of that whole shape, by the weight's whole scale."""
        bounds = [part.indices(length)[:2] for part, length in zip(region, shape, strict=True)]
        grid = _grid(tuple(scale.shape), len(shape))
        scale = scale.view(grid).float()
        for axis, (start, end) in enumerate(bounds):
            if grid[axis] == 1:
                continue
            size = 1 if grid[axis] == shape[axis] else self.block[axis - len(shape) + 2]
            scale = scale.index_select(axis, torch.arange(start, end) // size)
        return values.float() * scale

    def _grids(self, weight: Shape) -> set[Shape]:
        *front, rows, columns = weight
        blocks = -(-rows // self.block[0]), -(-columns // self.block[1])
        grids = {(*front, *last) for last in (blocks, (rows, 1), (1, 1))}
        return grids | {(1,) * len(weight)}


def without_quantization(config: Mapping[str, Any]) -> dict[str, Any]:
    """config.json of the same model with plain weights."""
    plain = {key: value for key, value in config.items() if key != _KEY}
    if isinstance(plain.get("text_config"), Mapping):
        plain["text_config"] = {key: value for key, value in plain["text_config"].items() if key != _KEY}
    return plain


def scale_of(name: str, names: Mapping[str, Any]) -> str | None:
    """The name of a weight's scale among `names`, or None."""
    return next((name + suffix for suffix in SCALES if name + suffix in names), None)


def of_activations(names: Iterable[str]) -> set[str]:
    """Scales of what a model computes with, which only inference in FP8 needs."""
    return {name for name in names if name.endswith(_OF_ACTIVATIONS)}


def _grid(scale: Shape, axes: int) -> Shape:
    """A scale's shape with as many axes as its weight: one number, or one for each expert or row, may have fewer."""
    if len(scale) == axes:
        return scale
    if len(scale) == 1 and scale[0] > 1:
        return (scale[0], *(1,) * (axes - 1))
    return (1,) * axes if scale in ((), (1,)) else scale
