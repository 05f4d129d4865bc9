"""From an architecture and settings to Megatron's config and the model chunks of this rank."""

from editcaption_mega.platform import megatron  # noqa: F401  isort: skip
from collections.abc import Mapping, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from megatron.core import parallel_state
from megatron.core.transformer.module import Float16Module

from editcaption_mega import platform
from editcaption_mega.settings import ModelSettings, ParallelSettings

from .architecture import Architecture
from .layers import check_backend
from .layout_check import check_layout
from .parallel.adapter_plan import AdapterPlan
from .parallel.delayed_gradients import DelayedGradients
from .parallel.linears import LanguageConfig
from .parallel.marks import mark
from .pipeline_split import feature_routes, megatron_layout, split_layers
from .qwen3_vl import Qwen3VLModel
from .recompute import check_recompute, recompute_options

_DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def transformer_config(
    architecture: Architecture,
    model: ModelSettings,
    parallel: ParallelSettings,
    precision: str,
    adapters: AdapterPlan | None = None,
) -> LanguageConfig:
    """Megatron's config of the language model. Raises ValueError when the layout does not fit the architecture."""
    check_backend(model.backend)
    check_layout(architecture, parallel)
    check_recompute(architecture, model)
    interleaved = parallel.virtual_pipeline_model_parallel_size is not None
    dtype = _DTYPES[precision]
    options: dict[str, Any] = dict(
        num_layers=architecture.num_layers,
        hidden_size=architecture.hidden_size,
        num_attention_heads=architecture.num_heads,
        num_query_groups=architecture.num_kv_heads,
        kv_channels=architecture.head_dim,
        ffn_hidden_size=architecture.intermediate_size,
        qk_layernorm=True,
        normalization="RMSNorm",
        layernorm_epsilon=architecture.norm_eps,
        gated_linear_unit=True,
        activation_func=F.silu,
        bias_activation_fusion=False,
        use_te_activation_func=True,  # it takes the module that the layer's spec names: ours, not Transformer Engine's
        add_bias_linear=False,
        hidden_dropout=0.0,
        attention_dropout=0.0,
        use_cpu_initialization=platform.device().type == "cpu",
        perform_initialization=False,  # every weight is read from a folder or a checkpoint, and that is checked
        params_dtype=dtype,
        pipeline_dtype=dtype,
        bf16=precision == "bf16",
        tensor_model_parallel_size=parallel.tensor_model_parallel_size,
        pipeline_model_parallel_size=parallel.pipeline_model_parallel_size,
        virtual_pipeline_model_parallel_size=parallel.virtual_pipeline_model_parallel_size,
        expert_model_parallel_size=parallel.expert_model_parallel_size,
        expert_tensor_parallel_size=parallel.expert_tensor_parallel_size,
        sequence_parallel=parallel.use_sequence_parallel,
        pipeline_model_parallel_layout=_pipeline_layout(architecture, parallel),
        # Batched p2p is silently wrong for the interleaved schedule at PP = 2 (a loss off by up to 1.45), and cannot be
        # waited for later. All stages do alike.
        batch_p2p_comm=not interleaved and parallel.delayed_weight_gradients is None,
        overlap_p2p_comm=interleaved,
        batch_p2p_sync=False,  # the host would wait for the GPU after each transfer, for the sake of torch before 2.0
        # Lengths differ from step to step but not within one: the schedule is told the length of each step.
        variable_seq_lengths=False,
        gradient_accumulation_fusion=False,  # of Megatron's own linears, which need Apex for it
        fused_weight_gradients=model.fused_weight_gradients,
        expert_pieces=parallel.expert_pieces,
        delayed_gradients=_delayed_gradients(parallel),
        # Transformer Engine's linears divide a row as Megatron does.
        sequence_pieces=parallel.sequence_pieces if model.backend == "torch" else 1,
        adapters=adapters,
    )
    return LanguageConfig(**options, **_expert_options(architecture, model), **recompute_options(model))


def _delayed_gradients(parallel: ParallelSettings) -> DelayedGradients | None:
    """Of this rank's stage; the first sends nothing on, and no stage waits for it."""
    counts = parallel.delayed_weight_gradients
    if counts is None:
        return None
    stage = parallel_state.get_pipeline_model_parallel_rank()
    return DelayedGradients(counts[stage]) if stage else None


def _pipeline_layout(architecture: Architecture, parallel: ParallelSettings) -> list[list[str]] | None:
    if parallel.pipeline_model_parallel_size == 1:
        return None
    return megatron_layout(split_layers(architecture.num_layers, parallel))


def _expert_options(architecture: Architecture, model: ModelSettings) -> dict[str, Any]:
    if architecture.experts is None:
        return {}
    return dict(
        num_moe_experts=architecture.experts.num_experts,
        moe_router_topk=architecture.experts.experts_per_token,
        moe_ffn_hidden_size=architecture.experts.intermediate_size,
        moe_router_dtype="fp32",
        moe_router_load_balancing_type="aux_loss" if model.router_aux_loss else "none",
        moe_aux_loss_coeff=model.router_aux_loss,
        moe_token_dispatcher_type="alltoall",
        moe_grouped_gemm=True,
    )


def build_model(
    architecture: Architecture,
    model: ModelSettings,
    parallel: ParallelSettings,
    precision: str,
    adapters: AdapterPlan | None = None,
    weights: Sequence[Mapping[str, torch.nn.Parameter]] | None = None,
) -> list[torch.nn.Module]:
    """The model chunks of this rank (one, or several under interleaved pipelining), with uninitialized weights, or with
    those of another model of the same layout: `weights_to_share` of each of its chunks."""
    platform.require_prepared()
    config = transformer_config(architecture, model, parallel, precision, adapters)
    chunks = []
    virtual = parallel.virtual_pipeline_model_parallel_size
    counts = split_layers(architecture.num_layers, parallel)
    routes = feature_routes(counts, len(architecture.vision.deepstack_layers))
    routes = routes[parallel_state.get_pipeline_model_parallel_rank() :: parallel.pipeline_model_parallel_size]
    for stage in range(virtual) if virtual else (None,):
        chunk = Qwen3VLModel(
            config,
            architecture,
            model,
            routes[stage or 0],
            pre_process=parallel_state.is_pipeline_first_stage(ignore_virtual=False, vp_stage=stage),
            post_process=parallel_state.is_pipeline_last_stage(ignore_virtual=False, vp_stage=stage),
            vp_stage=stage,
            weights=None if weights is None else weights[stage or 0],
        )
        chunk.to(platform.device())  # Megatron makes a router's weight on the CPU and leaves it there
        for parameter in chunk.parameters():
            # Megatron marks only what it created itself as replicated or sharded over tensor-parallel ranks.
            if not hasattr(parameter, "tensor_model_parallel"):
                mark(parameter, tensor_model_parallel=False)
        chunks.append(Float16Module(config, chunk) if precision == "bf16" else chunk)
    return chunks


def unwrap(chunk: torch.nn.Module) -> Qwen3VLModel:
    """The model inside Megatron's wrappers (mixed precision, data parallel)."""
    model: Any = chunk
    while not isinstance(model, Qwen3VLModel):
        model = model.module
    return model
