"""The layer of the language model as a Megatron spec, for each of the backends in `MODULES`.

`torch` needs neither Transformer Engine nor Apex and runs on CPU and CUDA. `transformer_engine` takes linear layers,
norms and attention from TE through Megatron's public spec provider. Every backend keeps the same module and parameter
names (norms are never fused into linears, experts are ours), so checkpoints and the weight rules know one layout.
"""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
import importlib
import importlib.util
from collections.abc import Callable
from functools import partial

import torch
from megatron.core.fusions.fused_bias_dropout import get_bias_dropout_add
from megatron.core.transformer.attention import SelfAttention, SelfAttentionSubmodules
from megatron.core.transformer.enums import AttnMaskType
from megatron.core.transformer.mlp import MLP, MLPSubmodules
from megatron.core.transformer.moe.moe_layer import MoESubmodules
from megatron.core.transformer.moe.router import TopKRouter
from megatron.core.transformer.spec_utils import ModuleSpec
from megatron.core.transformer.transformer_block import TransformerBlockSubmodules, get_num_layers_to_build
from megatron.core.transformer.transformer_config import TransformerConfig
from megatron.core.transformer.transformer_layer import TransformerLayer, TransformerLayerSubmodules
from torch import Tensor

from editcaption_mega import platform
from editcaption_mega.kernels import rms_norm, swiglu
from editcaption_mega.settings import ModelSettings
from editcaption_mega.words import one_line

from .adapters import AdaptedExperts, AdaptedRouter, adapted_column, adapted_row
from .attention import SegmentCoreAttention
from .dispatch import SortingMoELayer
from .parallel.grouped_experts import GroupedExperts
from .parallel.linears import ColumnLinear, LanguageConfig, RowLinear
from .parallel.marks import mark
from .recompute import forget_norm, recomputed, recomputed_norm
from .transformer_engine import Modules, transformer_engine_modules


def check_backend(backend: str) -> None:
    """Raise ValueError for an unknown backend, or for `transformer_engine` where TE is not installed or has no GPU."""
    if backend not in MODULES:
        raise ValueError(f"backend is {backend!r}, expected one of {', '.join(MODULES)}")
    if backend == "transformer_engine":
        _check_transformer_engine()


def _check_transformer_engine() -> None:
    if not _has_transformer_engine():
        raise ValueError(
            "backend 'transformer_engine' needs the package transformer-engine[pytorch], which is not installed: "
            "install it (make transformer-engine) or set model.backend=torch"
        )
    _import_transformer_engine()
    if not torch.cuda.is_available():  # nor for a plan, which computes nothing
        raise ValueError(
            "backend 'transformer_engine' is for GPUs alone, and PyTorch has none here: set model.backend=torch, of "
            "which plans are made, too"
        )


def _has_transformer_engine() -> bool:
    """The real package with its PyTorch part; a bare folder of that name is not enough."""
    return bool(
        platform.transformer_engine_error()
        or (importlib.util.find_spec("transformer_engine") and importlib.util.find_spec("transformer_engine.pytorch"))
    )


def _import_transformer_engine() -> None:
    """Raise ValueError for an installation that cannot be imported, in whose place Megatron puts a mock."""
    try:
        importlib.import_module("transformer_engine.pytorch")
    except Exception as error:  # undefined symbols, missing libraries, another CUDA: each has its own class
        reason = platform.transformer_engine_error() or one_line(str(error))
        raise ValueError(
            f"backend 'transformer_engine': the installed package cannot be imported ({reason:.300}). It "
            "is mostly that it was built for another torch: build it for the one that is here (make "
            "transformer-engine), or set model.backend=torch"
        ) from error


class RMSNorm(torch.nn.Module):
    """y = weight * x / rms(x), in fp32 inside and rounded before the weight, as in transformers' Qwen3VLTextRMSNorm.

    Marks its weight for the gradient sum over tensor-parallel ranks under sequence parallelism."""

    def __init__(self, config: TransformerConfig, hidden_size: int, eps: float = 1e-6, **kwargs):
        super().__init__()
        self.eps = eps
        device = None if config.use_cpu_initialization else torch.cuda.current_device()
        self.weight = torch.nn.Parameter(torch.ones(hidden_size, dtype=config.params_dtype, device=device))
        mark(self.weight, sequence_parallel=config.sequence_parallel)

    def forward(self, x: Tensor) -> Tensor:
        return rms_norm(x, self.weight, self.eps)


class SwiGLU(torch.nn.Module):
    """The activation of a dense feed-forward block [.., 2 f] -> [.., f], gate first: one kernel each way."""

    def __init__(self, config: TransformerConfig):
        super().__init__()

    def forward(self, gate_up: Tensor) -> Tensor:
        return swiglu(gate_up)


class DeepStackLayer(TransformerLayer):
    """A decoder layer that adds the visual features of its depth to its output.

    They come as Megatron's `context`, so that recompute sees them as an input: [features, s/tp, 1, hidden], that of the
    chunk's first layer first."""

    def __init__(self, config: TransformerConfig, submodules: TransformerLayerSubmodules, layer_number=1, **kwargs):
        super().__init__(config, submodules, layer_number, **kwargs)
        self.place = layer_number - 1  # in its chunk; the base class counts on from the chunks before
        forget_norm(self.input_layernorm, used_by=self.self_attention)
        forget_norm(self.pre_mlp_layernorm, used_by=self.mlp)

    def forward(self, *args, **kwargs):
        hidden_states, context = super().forward(*args, **kwargs)
        if context is not None and self.place < context.size(0):
            hidden_states = hidden_states + context[self.place]
        return hidden_states, context


def block_spec(
    config: LanguageConfig, settings: ModelSettings, vp_stage: int | None = None
) -> TransformerBlockSubmodules:
    """The decoder of one pipeline chunk: its layers and the final norm, from one backend."""
    check_backend(settings.backend)
    column, row, norm, core = MODULES[settings.backend]()
    experts_class, router = GroupedExperts, TopKRouter
    if config.adapters is not None:
        column, row, experts_class, router = adapted_column(column), adapted_row(row), AdaptedExperts, AdaptedRouter
    recompute = settings.recompute_modules if settings.recompute == "selective" else ()
    layer_norm = recomputed_norm(norm) if "layernorm" in recompute else norm
    if config.num_moe_experts:
        experts = partial(experts_class, recomputed=recomputed if "moe_act" in recompute else None)
        mlp = partial(SortingMoELayer, submodules=MoESubmodules(router=router, experts=experts))
    else:
        mlp = partial(MLP.as_mlp_submodule, submodules=MLPSubmodules(column, row, SwiGLU))
    attention = ModuleSpec(
        module=SelfAttention,
        params={"attn_mask_type": AttnMaskType.causal},
        submodules=SelfAttentionSubmodules(
            linear_qkv=column, core_attention=core, linear_proj=row, q_layernorm=norm, k_layernorm=norm
        ),
    )
    layer = ModuleSpec(
        module=DeepStackLayer,
        submodules=TransformerLayerSubmodules(
            input_layernorm=layer_norm,
            self_attention=attention,
            self_attn_bda=get_bias_dropout_add,
            pre_mlp_layernorm=layer_norm,
            mlp=mlp,
            mlp_bda=get_bias_dropout_add,
        ),
    )
    return TransformerBlockSubmodules(layer_specs=[layer] * get_num_layers_to_build(config, vp_stage), layer_norm=norm)


def torch_modules() -> Modules:
    """Linears of Megatron with products of our own, and norm and attention in plain PyTorch."""
    return Modules(ColumnLinear, RowLinear, RMSNorm, SegmentCoreAttention)


# For each of settings.BACKENDS, called where a layer is built: a backend's package is imported only where it is used.
MODULES: dict[str, Callable[[], Modules]] = {
    "torch": torch_modules,
    "transformer_engine": transformer_engine_modules,
}
