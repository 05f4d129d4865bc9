"""AdamW through Megatron's distributed optimizer, with per-module learning rates and freezing."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from megatron.core.distributed import DistributedDataParallel, DistributedDataParallelConfig, finalize_model_grads
from megatron.core.optimizer import (
    MegatronOptimizer,
    OptimizerConfig,
    get_megatron_optimizer,
    get_standard_config_overrides,
)
from megatron.core.optimizer.optimizer_config import ParamKey, ParamWithNamePredicate
from megatron.core.optimizer_param_scheduler import OptimizerParamScheduler
from megatron.core.utils import get_model_config

from editcaption_mega.conversion import ParamShard, Rule
from editcaption_mega.conversion.rules import unique_rules
from editcaption_mega.settings import OptimizerSettings


@dataclass
class TrainState:
    """The pieces that an optimizer step needs. `chunks` are wrapped for data parallelism."""

    chunks: list[DistributedDataParallel]
    optimizer: MegatronOptimizer
    scheduler: OptimizerParamScheduler  # the learning rate of the next step


class Schedule(OptimizerParamScheduler):
    """Linear warm-up, then cosine decay, as Megatron's; but the first of w warm-up steps trains already, with 1/(w + 1)
    of the full rate, where Megatron's has rate 0."""

    def get_lr(self, param_group: dict[str, Any]) -> float:
        if self.num_steps < self.lr_warmup_steps:
            rate: float = param_group.get("max_lr", self.max_lr) * (self.num_steps + 1) / (self.lr_warmup_steps + 1)
        else:
            rate = super().get_lr(param_group)
        return rate


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
) -> TrainState:
    """Wrap the chunks for data parallelism, and build the optimizer and its schedule."""
    config = get_model_config(chunks[0])
    ddp = DistributedDataParallelConfig(
        use_distributed_optimizer=True, grad_reduce_in_fp32=True, overlap_grad_reduce=False
    )
    wrapped = [DistributedDataParallel(config, ddp, chunk, disable_bucketing=i > 0) for i, chunk in enumerate(chunks)]
    config.finalize_model_grads_func = finalize_model_grads
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
    )
    optimizer = get_megatron_optimizer(
        optimizer_config,
        wrapped,
        config_overrides=_overrides(optimizer_config, param_shards, settings),
        use_gloo_process_groups=False,
    )
    scheduler = Schedule(
        optimizer,
        init_lr=0.0,
        max_lr=settings.learning_rate,
        min_lr=settings.min_learning_rate,
        lr_warmup_steps=settings.warmup_steps,
        lr_decay_steps=max(total_steps, settings.warmup_steps + 1),
        lr_decay_style="cosine",
        start_wd=settings.weight_decay,
        end_wd=settings.weight_decay,
        wd_incr_steps=0,
        wd_incr_style="constant",
    )
    # Megatron raises the shared gradient scaler of the auxiliary loss to this; 1 without loss scaling.
    config.grad_scale_func = optimizer.scale_loss
    return TrainState(wrapped, optimizer, scheduler)


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
