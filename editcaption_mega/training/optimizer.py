"""AdamW through Megatron's distributed optimizer, with per-module learning rates and freezing, and the wrapper that
shares gradients and weights over data-parallel ranks while others are computed.

Gradients: a bucket of them is reduce-scattered as soon as the step's last backward pass has filled it. Weights: what
the update has changed is gathered from the end of the step on, bucket after bucket in the order in which the next
forward pass needs them, and each module waits for its own before it runs. Whoever else reads weights after an update
calls `megatron_optimizer.finish_gathers` before.

What differs from Megatron's own training program: every chunk of every stage has buckets, not the first stage's first
chunk alone, because a later stage's last backward pass hides little of a reduction that begins behind it; and all
gathers begin at once, not each when the one before it is needed.
"""

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core import parallel_state
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.optimizer.distrib_optimizer import DistributedOptimizer
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.utils import get_model_config

from editcaption_mega.conversion import ParamShard, Rule
from editcaption_mega.conversion.rules import unique_rules
from editcaption_mega.model import unwrap
from editcaption_mega.settings import OptimizerSettings

from .learning_rate import build_schedule
from .megatron_optimizer import finish_gather, fuse_updates
from .stragglers import passes_end

BUCKET_SIZE = 40_000_000  # parameters at least: Megatron's default up to 40 data-parallel ranks


@dataclass
class TrainState:
    """The pieces that an optimizer step needs. `chunks` are wrapped for data parallelism."""

    chunks: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler

    @property
    def learning_rate(self) -> float:
        """Of the next step: the largest of all parameter groups; the schedule's on a stage that trains nothing, such as
        one without adapters."""
        rates = [group["lr"] for group in self.optimizer.param_groups]
        return float(max(rates, default=self.scheduler.get_lr({})))


def freeze_modules(param_shards: list[ParamShard], settings: OptimizerSettings) -> None:
    """Modules whose learning-rate multiplier is 0 get no gradient. Before data-parallel wrapping."""
    multipliers = settings.multipliers()
    for shard in param_shards:
        shard.parameter.requires_grad_(multipliers[shard.rule.module] > 0)


def build_train_state(
    chunks: list[torch.nn.Module],
    param_shards: list[ParamShard],
    settings: OptimizerSettings,
    *,
    precision: str,
    total_steps: int,
    overlap: bool = True,
    bucket_size: int = BUCKET_SIZE,
) -> TrainState:
    """Wrap the chunks for data parallelism, and build the optimizer and its schedule. overlap, bucket_size: see
    `_wrapped`."""
    config = get_model_config(chunks[0])
    wrapped = _wrapped(chunks, overlap=overlap, bucket_size=bucket_size)
    config.finalize_model_grads_func = _finalize
    optimizer_config = OptimizerConfig(
        optimizer="adam",
        lr=settings.learning_rate,
        min_lr=settings.min_learning_rate,
        weight_decay=settings.weight_decay,
        adam_beta1=settings.beta1,
        adam_beta2=settings.beta2,
        adam_eps=settings.eps,
        clip_grad=settings.clip_grad,
        bf16=precision == "bf16",
        params_dtype=torch.bfloat16 if precision == "bf16" else torch.float32,
        use_distributed_optimizer=True,
        overlap_param_gather=wrapped[0].ddp_config.overlap_param_gather,
    )
    with warnings.catch_warnings():  # a stage may have no adapter, and what is trained is said elsewhere
        warnings.filterwarnings("ignore", "WARNING: there is no optimizer on RANK")
        optimizer = get_megatron_optimizer(
            optimizer_config,
            wrapped,
            config_overrides=_overrides(optimizer_config, param_shards, settings),
            use_gloo_process_groups=False,
        )
    fuse_updates(optimizer)
    scheduler = build_schedule(optimizer, settings, total_steps)
    # Megatron raises the shared gradient scaler of the auxiliary loss to this; 1 without loss scaling.
    config.grad_scale_func = optimizer.scale_loss
    return TrainState(wrapped, optimizer, scheduler)


def _finalize(*arguments: Any, **options: Any) -> None:
    passes_end()
    finalize_model_grads(*arguments, **options)


def _wrapped(chunks: Sequence[torch.nn.Module], *, overlap: bool, bucket_size: int) -> list[DistributedDataParallel]:
    """The chunks of this rank, wrapped; weights and fp32 gradients move into Megatron's buffers.

    overlap: false communicates the same buckets between the passes, so that no bit of a run depends on it. Where one
    rank alone has the data there is nothing to do. bucket_size: parameters after which a bucket ends."""
    several = parallel_state.get_data_parallel_world_size() > 1
    overlap = overlap and several
    config = get_model_config(chunks[0])
    ddp = DistributedDataParallelConfig(
        use_distributed_optimizer=True,
        grad_reduce_in_fp32=True,
        overlap_grad_reduce=overlap,
        overlap_param_gather=overlap,
        align_param_gather=overlap,  # a module that waits begins no other gather: all have begun
        bucket_size=bucket_size,
        delay_wgrad_compute=config.delayed_gradients is not None,  # hooks of such weights go to their modules
    )
    wrapped = [_with_buckets(chunk, ddp, bucket_size if several else None) for chunk in chunks]
    if overlap:
        config.no_sync_func = [chunk.no_sync for chunk in wrapped] if len(wrapped) > 1 else wrapped[0].no_sync
        for chunk in wrapped:
            _wait_before_head(chunk)
    return wrapped


def _with_buckets(
    chunk: torch.nn.Module, ddp: DistributedDataParallelConfig, bucket_size: int | None
) -> DistributedDataParallel:
    layout = DistributedOptimizer.compute_full_param_layout(
        [parameter for parameter in chunk.parameters() if parameter.requires_grad],
        bucket_size,
        parallel_state.get_data_parallel_world_size(with_context_parallel=True),
        ddp,
        expert_data_parallel_world_size=parallel_state.get_expert_data_parallel_world_size(),
    )
    return DistributedDataParallel(get_model_config(chunk), ddp, chunk, full_param_layout=layout)


def _wait_before_head(chunk: DistributedDataParallel) -> None:
    """The LM head's weight is read without a call of its module, which would wait for it: so the decoder does, behind
    its last layer. All other weights are read by their own modules (tests/parity/test_overlap.py)."""
    language = unwrap(chunk).language
    if language.post_process and language.output_layer.weight is not None:  # None: the embedding's, on the same stage
        language.decoder.register_forward_hook(lambda *_: finish_gather(chunk, language.output_layer.weight))


def _overrides(config: OptimizerConfig, param_shards: list[ParamShard], settings: OptimizerSettings) -> dict[str, Any]:
    """Megatron's own rule (no weight decay on biases and 1-D weights) and our multipliers."""
    overrides = dict(get_standard_config_overrides(config))
    for module, factor in settings.multipliers().items():
        if factor in (0.0, 1.0):
            continue
        mine = {id(shard.parameter) for shard in param_shards if shard.rule.module == module}
        predicate = ParamWithNamePredicate(name=f"module_{module}", fn=lambda p, _, mine=mine: id(p) in mine)
        overrides[ParamKey(with_name_predicate=predicate)] = {
            "max_lr": settings.learning_rate * factor,
            "min_lr": settings.min_learning_rate * factor,
        }
    return overrides


def trainable_table(rules: Mapping[str, Rule], settings: OptimizerSettings) -> list[str]:
    """Lines that say, per module, how many parameters the model has, and at which learning rate they train."""
    counts: dict[str, int] = {}
    for rule in unique_rules(rules):
        counts[rule.module] = counts.get(rule.module, 0) + rule.size
    lines = [f"{'module':<10}{'parameters':>18}{'learning rate':>16}"]
    for module, count in counts.items():
        factor = settings.multipliers()[module]
        rate = f"{settings.learning_rate * factor:.3g}" if factor else "frozen"
        lines.append(f"{module:<10}{count:>18,}{rate:>16}")
    trained = sum(count for module, count in counts.items() if settings.multipliers()[module])
    lines.append(f"{'trained':<10}{trained:>18,} of {sum(counts.values()):,}")
    return lines
