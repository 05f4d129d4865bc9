"""Qwen3-VL on Megatron-Core. On a machine without CUDA a program calls `platform.prepare()` before it builds one."""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from .architecture import Architecture, ExpertArchitecture, VisionArchitecture
from .build import build_model, transformer_config, unwrap
from .parallel.adapter_plan import ADAPTERS, AdapterPart, AdapterPlan
from .qwen3_vl import Qwen3VLModel
from .shared_weights import weights_to_share

__all__ = [
    "ADAPTERS",
    "AdapterPart",
    "AdapterPlan",
    "Architecture",
    "ExpertArchitecture",
    "Qwen3VLModel",
    "VisionArchitecture",
    "build_model",
    "transformer_config",
    "unwrap",
    "weights_to_share",
]
