"""Qwen3-VL on Megatron-Core. `platform` comes first: it prepares Megatron for a machine without CUDA."""

from editcaption_mega import platform  # noqa: F401  isort: skip
from .architecture import Architecture, ExpertArchitecture, VisionArchitecture
from .build import build_model, transformer_config, unwrap
from .qwen3_vl import Qwen3VLModel

__all__ = [
    "Architecture",
    "ExpertArchitecture",
    "Qwen3VLModel",
    "VisionArchitecture",
    "build_model",
    "transformer_config",
    "unwrap",
]
