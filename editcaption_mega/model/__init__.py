"""Qwen3-VL on Megatron-Core. On a machine without CUDA a program calls `platform.prepare()` before it builds one.

Sizes of models and plans of adapters need no Megatron-Core, which takes seconds to import: what does comes when it is
first asked for. A file that imports Megatron-Core imports `platform.megatron` before it."""

from typing import TYPE_CHECKING

from editcaption_mega.lazy_names import lazy_names

from .architecture import Architecture, ExpertArchitecture, VisionArchitecture
from .parallel.adapter_plan import ADAPTERS, AdapterPart, AdapterPlan

if TYPE_CHECKING:
    from .build import build_model, transformer_config, unwrap
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
_WITH_MEGATRON = {
    "Qwen3VLModel": ".qwen3_vl",
    "build_model": ".build",
    "transformer_config": ".build",
    "unwrap": ".build",
    "weights_to_share": ".shared_weights",
}
__getattr__ = lazy_names(__name__, _WITH_MEGATRON)
